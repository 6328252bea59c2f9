from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import images

from chorus_core.teachers.mask_proposers import (
    GraphSegmentation,
    SamProposer,
    crop_boxes,
    distinct_masks,
    graph_segmentation,
    load_mask_proposer,
    points_per_batch,
)


def slow_graph_segmentation(image: np.ndarray, scale: float, smallest: int) -> np.ndarray:
    """The paper's algorithm word by word: components as sets, the largest edge of each one's spanning tree kept."""
    height, width = image.shape[:2]
    edges = []
    for way in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for y in range(height):
            for x in range(width):
                v, u = y + way[0], x + way[1]
                if v < height and 0 <= u < width:
                    # Diagonals to the left are listed by their upper end too.
                    weight = float(np.linalg.norm(image[y, x].astype(np.float32) - image[v, u].astype(np.float32)))
                    edges.append((weight, (y, x), (v, u)))
    edges.sort(key=lambda edge: edge[0])
    component = {(y, x): {(y, x)} for y in range(height) for x in range(width)}
    inside = {frozenset(c): 0.0 for c in component.values()}

    def merge(a: set, b: set) -> frozenset:
        union = a | b
        for pixel in union:
            component[pixel] = union
        return frozenset(union)

    for weight, a, b in edges:
        one, other = component[a], component[b]
        if one is not other:
            bounds = [inside[frozenset(c)] + scale / len(c) for c in (one, other)]
            if weight <= min(bounds):
                inside[merge(one, other)] = weight
    for _, a, b in edges:
        one, other = component[a], component[b]
        if one is not other and min(len(one), len(other)) < smallest:
            inside[merge(one, other)] = 0.0
    names: dict[int, int] = {}
    return np.array([[names.setdefault(id(component[y, x]), len(names)) for x in range(width)] for y in range(height)])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.sampled_from([5.0, 60.0, 300.0]), st.integers(0, 6)
)
def test_regions_are_those_of_the_paper(seed: int, height: int, width: int, scale: float, smallest: int) -> None:
    image = np.random.default_rng(seed).integers(0, 200, (height, width, 3)).astype(np.uint8)
    fast, slow = graph_segmentation(image, scale, smallest), slow_graph_segmentation(image, scale, smallest)
    pairs = set(zip(fast.ravel().tolist(), slow.ravel().tolist(), strict=True))
    assert len(pairs) == len(set(fast.ravel().tolist())) == len(set(slow.ravel().tolist()))


def scene() -> np.ndarray:
    """A grey wall, a red box in its upper left and a blue one below, with some noise."""
    image = np.full((120, 160, 3), 150, dtype=np.int16)
    image[10:50, 10:70] = (200, 30, 30)
    image[70:110, 90:150] = (20, 40, 210)
    image += np.random.default_rng(0).integers(-4, 5, image.shape)
    return image.astype(np.uint8)


def test_masks_are_the_things_and_cover_every_pixel_once() -> None:
    masks = GraphSegmentation().propose(scene())
    assert masks.dtype == torch.bool
    assert torch.equal(masks.sum(dim=0), torch.ones(120, 160, dtype=torch.int64))
    assert len(masks) == 3
    truth = [np.s_[10:50, 10:70], np.s_[70:110, 90:150]]
    for place in truth:
        thing = torch.zeros(120, 160, dtype=torch.bool)
        thing[place] = True
        iou = [float((mask & thing).sum() / (mask | thing).sum()) for mask in masks]
        assert max(iou) > 0.9


def test_masks_have_the_size_of_the_image_whatever_it_is() -> None:
    for height, width in ((30, 500), (481, 333), (1, 1)):
        masks = GraphSegmentation().propose(images(1, height, width)[0].numpy())
        assert masks.shape[1:] == (height, width)
        assert bool(masks.any(dim=0).all())


def test_distinct_masks_keeps_the_better_of_two_alike() -> None:
    masks = torch.zeros(5, 20, 20, dtype=torch.bool)
    masks[0, :10], masks[1, :9], masks[2, 12:] = True, True, True  # 0 and 1 have an IoU of 0.9
    masks[3, 12:, :10], masks[4, 0, :3] = True, True  # 3 is half of 2; 4 is too small
    kept = distinct_masks(masks, torch.tensor([0.8, 0.9, 0.7, 0.95, 1.0]))
    assert [int(mask.sum()) for mask in kept] == [80, 180, 160]


def test_no_masks_are_no_masks() -> None:
    assert distinct_masks(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0)).shape == (0, 4, 4)


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SAM with random weights, as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    vision |= {"output_channels": 8, "mlp_dim": 16, "num_pos_feats": 4, "window_size": 2, "global_attn_indexes": [0]}
    prompt = {"hidden_size": 8, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 8,
        "mlp_dim": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 8,
    }
    config = transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(**vision),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(**prompt),
        mask_decoder_config=transformers.SamMaskDecoderConfig(**decoder, iou_head_depth=2),
    )
    folder = tmp_path_factory.mktemp("sam")
    transformers.SamModel(config).save_pretrained(folder)
    transformers.SamProcessor(
        transformers.SamImageProcessor(
            size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16}
        )
    ).save_pretrained(folder)
    return folder


def test_sam_from_a_folder(sam: Path) -> None:
    """Random weights find nothing good: thresholds are lowered until something passes."""
    proposer = SamProposer(str(sam), points=3, crop_layers=0, least_iou=-10.0, least_stability=0.0)
    masks = proposer.propose(images(1, 48, 72)[0].numpy())
    assert masks.dtype == torch.bool
    assert masks.shape[1:] == (48, 72)
    assert len(masks) > 0
    flat = masks.flatten(1).float()
    overlap = flat @ flat.T
    iou = overlap / (flat.sum(1)[:, None] + flat.sum(1)[None] - overlap)
    assert float(iou.fill_diagonal_(0).max()) <= 0.8
    assert proposer.name.startswith("sam")


def test_sam_with_crops_and_with_nothing_found(sam: Path) -> None:
    crops = SamProposer(str(sam), points=2, crop_layers=1, least_iou=-10.0, least_stability=0.0)
    assert crops.propose(images(1, 48, 72)[0].numpy()).shape[1:] == (48, 72)
    strict = SamProposer(str(sam), points=2, crop_layers=0, least_iou=1e6)
    assert strict.propose(images(1, 48, 72)[0].numpy()).shape == (0, 48, 72)


@pytest.mark.parametrize(("points", "expected"), [(32, 64), (2, 4), (3, 9), (9, 27), (31, 31), (48, 48), (67, 67)])
def test_prompts_come_in_batches_of_one_size(points: int, expected: int) -> None:
    assert points_per_batch(points) == expected
    assert points**2 % expected == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(40, 300), st.integers(40, 300), st.integers(0, 2))
def test_crops_cover_the_image_and_overlap(height: int, width: int, layers: int) -> None:
    boxes = crop_boxes(height, width, layers)
    assert len(boxes) == sum(4**layer for layer in range(layers + 1))
    place = 0
    for layer in range(layers + 1):
        seen = np.zeros((height, width), dtype=int)
        for box in boxes[place : place + 4**layer]:
            assert seen[box].size > 0
            seen[box] += 1
        place += 4**layer
        assert seen.min() >= 1
        assert layer == 0 or seen.max() >= 4


def test_a_thing_in_a_crop_is_put_where_it_is_and_a_cut_one_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that finds all red pixels: whole in one crop, cut by the others, so that one mask remains."""
    image = np.zeros((60, 90, 3), dtype=np.uint8)
    image[4:12, 70:82] = 255
    proposer = SamProposer.__new__(SamProposer)
    proposer._crop_layers = 1
    searched = []

    def search(crop: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        searched.append(crop.shape)
        red = torch.from_numpy(crop[..., 0] > 0)
        cut = torch.ones_like(red)  # touches every edge: kept for the whole image only
        return torch.stack([red, cut]), torch.tensor([0.9, 0.8])

    monkeypatch.setattr(proposer, "_search", search)
    masks = proposer.propose(image)
    assert len(searched) == 5
    assert [int(mask.sum()) for mask in masks] == [96, 60 * 90]
    assert bool(masks[0][4:12, 70:82].all())


def test_the_default_needs_no_weights() -> None:
    assert isinstance(load_mask_proposer(None), GraphSegmentation)
    assert isinstance(load_mask_proposer("graph"), GraphSegmentation)
