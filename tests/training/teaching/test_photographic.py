"""Faults of cameras and files, beside OpenCV's blur and OpenCV's JPEG."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from training.teaching.photographic import blurred, jpeg, photographed


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth colours, edges and a little noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(
        rng.uniform(0, 255, (4, 5, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    smooth[height // 3 : height // 2, width // 4 : width // 2] = rng.uniform(0, 255, 3)
    return (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("quality", [25, 50, 75, 95])
@pytest.mark.parametrize("size", [(48, 64), (45, 50)])
def test_jpeg_is_that_of_libjpeg(quality: int, size: tuple[int, int]) -> None:
    image = picture(*size)
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    _, file = cv2.imencode(".jpg", image[..., ::-1], options)
    theirs = cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32)
    ours = jpeg(as_batch(image), torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy()
    lost = np.abs(theirs - image).mean()
    assert np.abs(ours - theirs).mean() < 0.25 * lost + 0.8  # theirs is rounded to whole numbers in between
    assert np.abs(ours - image).mean() == pytest.approx(lost, rel=0.15, abs=0.3)


def test_blur_is_a_gaussian_of_each_images_width() -> None:
    images = torch.cat([as_batch(picture(seed=1)), as_batch(picture(seed=2))])
    ours = blurred(images, torch.tensor([0.5, 2.0]))
    for image, mine, sigma in zip(images, ours, (0.5, 2.0), strict=True):
        theirs = cv2.GaussianBlur(
            image.permute(1, 2, 0).numpy(), (11, 11), sigma, borderType=cv2.BORDER_REFLECT_101
        )  # fmt: skip
        np.testing.assert_allclose(mine.permute(1, 2, 0).numpy(), theirs, atol=0.02)


def test_a_share_of_the_images_is_changed_and_a_seed_repeats_it() -> None:
    images = torch.from_numpy(np.stack([picture(seed=k) for k in range(40)])).float()

    def made(share: float, seed: int) -> torch.Tensor:
        return photographed(images, torch.Generator().manual_seed(seed), share)

    assert torch.equal(made(0.0, 0), images)
    some, again, other = made(0.2, 1), made(0.2, 1), made(0.2, 2)
    assert torch.equal(some, again) and not torch.equal(some, other)
    assert float(some.min()) >= 0.0 and float(some.max()) <= 255.0
    unchanged = (some == images).flatten(1).all(dim=1).float().mean()
    assert 0.1 < float(unchanged) < 0.6  # five faults with a chance of a fifth each: 0.33 have none
