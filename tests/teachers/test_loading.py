from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_models import save_timm

from chorus_core.teachers import TeacherError, load_teacher


@pytest.mark.parametrize("spec", ["", "dino", "sam:x", "timm-vit", "/etc/passwd"])
def test_an_unknown_kind_lists_the_forms(spec: str) -> None:
    with pytest.raises(TeacherError) as caught:
        load_teacher(spec)
    message = str(caught.value)
    assert repr(spec) in message
    for form in (
        "embedded",
        "open_clip:<model>:<tag>",
        "open_clip-masks:",
        "timm:<model>",
        "enet:<file>",
        "torchvision:",
    ):
        assert form in message
    assert "transformers:<name or folder>" in message


@pytest.mark.parametrize("spec", ["timm:", "timm", "open_clip", "enet:", "transformers:?text=minilm"])
def test_a_kind_alone_is_not_enough(spec: str) -> None:
    with pytest.raises(TeacherError, match="names nothing after"):
        load_teacher(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("timm:x?side=3", "no option 'side'; it has head, size"),
        ("enet:x?size=3", "no option 'size'; it has text"),
        ("timm:x?size", "option 'size', expected <name>=<value>"),
        ("timm:x?size=", "expected <name>=<value>"),
        ("timm:x?size=big", "size = 'big': expected pixels"),
        ("timm:x?size=0", "size = '0': expected pixels"),
        ("open_clip:x?size=1x2x3", "expected pixels, or height x width"),
    ],
)
def test_bad_options_are_named(spec: str, said: str) -> None:
    with pytest.raises(TeacherError) as caught:
        load_teacher(spec)
    assert said in str(caught.value)


def test_options_reach_the_teacher(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    save_timm(tmp_path / "vit", "test_vit")
    teacher = load_teacher(f"timm:{tmp_path / 'vit'}?head=gen&size=96")
    assert list(teacher.heads) == ["gen"]
    assert teacher.input_size(10, 20) == (96, 192)


def test_an_unknown_text_encoder_is_a_teacher_error(tmp_path: Path) -> None:
    import torch

    from chorus_core.teachers.enet import ENet

    torch.save(ENet().state_dict(), tmp_path / "enet.pth")
    with pytest.raises(TeacherError, match="expected 'minilm'"):
        load_teacher(f"enet:{tmp_path / 'enet.pth'}?text=bert")


def test_the_package_alone_loads_no_teacher_library(repository: Path) -> None:
    code = (
        "import sys, chorus_core.teachers;"
        "print([m for m in ('timm', 'open_clip', 'transformers', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
