"""Dense features of vision-language models: the pooling that made one vector of an image, applied to every patch.

MaskCLIP (Zhou et al. 2022, arXiv 2112.01071) drops the query and key of CLIP's last attention and keeps its value path,
after which each position is in the space of the text. That is the last attention with each patch as the only thing it
can attend to (the softmax over one key is 1), which is how it is written here: the model's own modules run on sets of
one patch. So the same few lines serve every kind of pooling:

* class token (CLIP ViT): the last block runs on each patch alone, then final norm and projection;
* attention pooling (SigLIP and SigLIP 2's MAP head, PE-Core, CoCa): all blocks run as ever, then the pooling head runs
  on each patch alone; for the MAP head that is its value and output projections, then its residual MLP;
* average pooling: final norm and projection of each patch; the mean of them is the model's own embedding up to
  normalisation;
* convolutional: the pooling head runs on each cell as a map of one cell (CLIP ResNet: value and output projections of
  its attention pool, as in MaskCLIP).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from chorus_core.teachers.base import Teacher, TeacherError
from chorus_core.teachers.images import check_images, mixed_precision, network_input
from chorus_core.teachers.open_clip_tower import ImageTower


class DenseOpenClipTeacher(Teacher):
    """Patch features of an open_clip model in the space of its text, unit length, for the head "lang".

    Args:
        tower: the image side.

    Raises:
        TeacherError: the architecture has no dense path here.
    """

    def __init__(self, tower: ImageTower) -> None:
        self.name, self.text, self.device = f"dense:{tower.name}", tower.text, tower.device
        self.heads = {"lang": tower.dim}
        self._tower = tower
        self._features = dense_path(tower.visual)

    @torch.inference_mode()
    def maps(self, images: Tensor) -> dict[str, Tensor]:
        tower = self._tower
        check_images(images)
        x = network_input(images, tower.size, tower.mean, tower.std, tower.device)
        with mixed_precision(tower.device):
            features = self._features(x)
        return {"lang": nn.functional.normalize(features.float(), dim=-1)}


def dense_path(visual: nn.Module) -> Callable[[Tensor], Tensor]:
    """How to get from normalised images [B, 3, H, W] to features [B, h, w, D] with an open_clip image tower.

    Raises:
        TeacherError: there is no way known here.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, ModifiedResNet):
        return lambda x: _clip_resnet(visual, x)
    if isinstance(visual, VisionTransformer) and getattr(visual, "attn_pool_contrastive", None) is None:
        return lambda x: _clip_vit(visual, x)
    if isinstance(visual, TimmModel):
        from timm.models.eva import Eva
        from timm.models.vision_transformer import VisionTransformer as TimmViT

        trunk = visual.trunk
        if isinstance(trunk, (TimmViT, Eva)) and getattr(trunk.attn_pool, "pos_embed", None) is None:
            return lambda x: _timm_vit(visual, x)
        if not hasattr(trunk, "patch_embed"):
            return lambda x: _timm_convolutional(visual, x)
    raise TeacherError(f"image tower {type(visual).__name__}: has no dense path here; use open_clip-masks:<model>")


def _alone(module: nn.Module, patches: Tensor) -> Tensor:
    """A module on sequences, run on each patch as a sequence of one: [B, N, D] -> [B * N, D']."""
    found = module(patches.reshape(-1, 1, patches.shape[-1]))
    return found[:, 0] if found.ndim == 3 else found


def _clip_vit(visual: nn.Module, x: Tensor) -> Tensor:
    blocks = visual.transformer.resblocks
    tokens = visual._embeds(x)  # [B, 1 + N, D]
    for block in blocks[:-1]:
        tokens = block(tokens)
    if visual.attn_pool is not None:
        found = _attentional_pooler(visual.attn_pool, blocks[-1](tokens)[:, 1:])
    elif visual.pool_type == "tok":
        found = _alone(blocks[-1], tokens[:, 1:])
    else:
        found = blocks[-1](tokens)[:, 1:].flatten(0, 1)
    found = visual.ln_post(found)
    found = found if visual.proj is None else found @ visual.proj
    return found.view(len(x), *visual.grid_size, -1)


def _attentional_pooler(pooler: nn.Module, patches: Tensor) -> Tensor:
    """The value path of CoCa's pooler; its hundreds of queries would all give this."""
    attention = pooler.attn
    dim = attention.embed_dim
    weight = attention.in_proj_weight[2 * dim :] if attention._qkv_same_embed_dim else attention.v_proj_weight
    values = nn.functional.linear(pooler.ln_k(patches), weight, attention.in_proj_bias[2 * dim :])
    return attention.out_proj(values).flatten(0, 1)


def _clip_resnet(visual: nn.Module, x: Tensor) -> Tensor:
    for stage in (visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = stage(x)
    return visual.attnpool.c_proj(visual.attnpool.v_proj(x.permute(0, 2, 3, 1)))


def _timm_vit(visual: nn.Module, x: Tensor) -> Tensor:
    trunk = visual.trunk
    before_last: list[Tensor] = []
    hook = trunk.blocks[-1].register_forward_pre_hook(lambda _, inputs: before_last.append(inputs[0]))
    try:
        tokens = trunk.forward_features(x)  # [B, P + N, D]
    finally:
        hook.remove()
    prefix = trunk.num_prefix_tokens
    if trunk.attn_pool is not None:
        found = _alone(trunk.attn_pool, tokens[:, prefix:])
    elif trunk.global_pool == "token":
        found = trunk.norm(_alone(trunk.blocks[-1], before_last[0][:, prefix:]))
    else:
        found = tokens[:, prefix:].flatten(0, 1)
    found = visual.head(trunk.head(trunk.head_drop(trunk.fc_norm(found))))
    rows, columns = (side // patch for side, patch in zip(x.shape[2:], trunk.patch_embed.patch_size, strict=True))
    return found.view(len(x), rows, columns, -1)


def _timm_convolutional(visual: nn.Module, x: Tensor) -> Tensor:
    features = visual.trunk.forward_features(x)  # [B, C, h, w]
    count, channels, rows, columns = features.shape
    cells = features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
    return visual.head(visual.trunk.forward_head(cells)).view(count, rows, columns, -1)
