"""3DGS files: what goes in comes out, other people's files open, broken ones are refused by name."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.recfunctions import repack_fields
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation

from chorus_core.encoder.inputs import shortest_axes
from chorus_core.gaussians import SH_C0, Gaussians
from chorus_core.io.gaussian_ply import PlyFormatError, load_extra, load_gaussians, save_gaussians


def random_gaussians(count: int, seed: int = 0) -> Gaussians:
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    arrays = (
        rng.normal(scale=3.0, size=(count, 3)),
        quats,
        np.exp(rng.uniform(-8, 1, size=(count, 3))),
        rng.uniform(size=count),
        rng.integers(0, 256, size=(count, 3)) / 255.0,
    )
    return Gaussians(*(torch.tensor(a, dtype=torch.float32) for a in arrays))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 40), seed=st.integers(0, 2**31))
def test_round_trip(tmp_path_factory, count, seed):
    path = tmp_path_factory.mktemp("ply") / "map.ply"
    before = random_gaussians(count, seed)
    save_gaussians(path, before)
    after = load_gaussians(path)
    assert torch.equal(after.means, before.means)
    assert torch.equal(after.quats, before.quats)
    assert torch.equal((after.colors * 255).round(), (before.colors * 255).round()), "8-bit colours must not change"
    torch.testing.assert_close(after.opacities, before.opacities, rtol=0, atol=6e-8)
    torch.testing.assert_close(after.scales, before.scales, rtol=3e-6, atol=0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5),
    st.lists(st.floats(np.float32(1e-30), np.float32(1e6), width=32), min_size=3, max_size=3),
)
def test_documented_accuracy_over_the_whole_range(tmp_path_factory, unit, scales):
    path = tmp_path_factory.mktemp("ply") / "one.ply"
    colors = np.array(unit[:3], np.float32)
    one = Gaussians(
        torch.zeros(1, 3),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.tensor([scales]),
        torch.tensor(unit[3:4]),
        torch.from_numpy(colors[None]),
    )
    save_gaussians(path, one)
    after = load_gaussians(path)
    difference = np.abs(after.colors.numpy()[0] - colors)
    assert (difference <= 2e-8).all()
    assert (difference[colors > 0.25] == 0).all()
    assert abs(after.opacities.item() - unit[3]) <= 6e-8
    np.testing.assert_allclose(after.scales.numpy()[0], np.array(scales, np.float32), rtol=3e-6)


def test_opacity_and_scale_at_the_ends_stay_finite_in_the_file(tmp_path):
    gaussians = random_gaussians(2)
    gaussians.opacities = torch.tensor([0.0, 1.0])
    gaussians.scales = torch.zeros(2, 3)
    save_gaussians(tmp_path / "ends.ply", gaussians)
    vertex = PlyData.read(str(tmp_path / "ends.ply"))["vertex"].data
    assert all(np.isfinite(vertex[name]).all() for name in vertex.dtype.names)
    after = load_gaussians(tmp_path / "ends.ply")
    assert after.opacities[1] == 1.0
    assert 0 <= after.opacities[0] < 1e-37
    assert (after.scales < 1e-37).all()


def test_layout_is_the_standard_one(tmp_path):
    gaussians = random_gaussians(3)
    save_gaussians(tmp_path / "a.ply", gaussians, {"label": np.arange(3, dtype=np.int32)})
    raw = (tmp_path / "a.ply").read_bytes()
    header = raw[: raw.index(b"end_header\n") + 11]
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    expected = ["ply", "format binary_little_endian 1.0", "element vertex 3"]
    expected += [f"property float {name}" for name in names] + ["property int label", "end_header"]
    assert header.decode().split("\n")[:-1] == expected
    # an independent reading of the bytes, by the equations of the 3DGS reference implementation
    rows = np.frombuffer(raw[len(header) :], np.dtype([("f", "<f4", 17), ("label", "<i4")]))
    np.testing.assert_allclose(rows["f"][:, 6:9] * SH_C0 + 0.5, gaussians.colors, atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-rows["f"][:, 9])), gaussians.opacities, atol=1e-6)
    np.testing.assert_allclose(np.exp(rows["f"][:, 10:13]), gaussians.scales, rtol=1e-5)
    assert rows["label"].tolist() == [0, 1, 2]


def test_extra_columns(tmp_path):
    extra = {
        "label": np.array([1, 65535], np.uint16),
        "instance": np.array([-1, 70000], np.int32),
        "confidence": np.array([0.5, 0.25], np.float32),
        "stamp": np.array([1e9, 2e9 + 1e-3], np.float64),
    }
    save_gaussians(tmp_path / "a.ply", random_gaussians(2), extra)
    loaded = load_extra(tmp_path / "a.ply")
    assert list(loaded) == list(extra)
    for name, values in extra.items():
        assert loaded[name].dtype == values.dtype
        np.testing.assert_array_equal(loaded[name], values)
    assert len(load_gaussians(tmp_path / "a.ply")) == 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"label": np.zeros(3, np.int32)}, r"label.*shape \(3,\).*expected \(2,\)"),
        ({"label": np.zeros(2, np.int64)}, "label.*int64.*int32"),
        ({"opacity": np.zeros(2, np.float32)}, "opacity"),
        ({"f_rest_0": np.zeros(2, np.float32)}, "f_rest_0"),
        ({"two words": np.zeros(2, np.float32)}, "two words"),
    ],
)
def test_bad_extra_columns_are_named(tmp_path, extra, message):
    with pytest.raises(PlyFormatError, match=message):
        save_gaussians(tmp_path / "a.ply", random_gaussians(2), extra)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"), [("means", float("nan")), ("scales", -1.0), ("opacities", 1.5), ("quats", float("inf"))]
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, field, value):
    gaussians = random_gaussians(2)
    getattr(gaussians, field).view(-1)[0] = value
    with pytest.raises(PlyFormatError, match=field):
        save_gaussians(tmp_path / "a.ply", gaussians)


def foreign_vertex(count: int, rest: int = 45, drop: str = "") -> np.ndarray:
    """A vertex element as a trainer writes it: unnormalised quaternions, colours out of range, view dependence."""
    rng = np.random.default_rng(1)
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *[f"f_rest_{i}" for i in range(rest)]]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    vertex = np.zeros(count, dtype=[(n, "f4") for n in names if n != drop])
    for name in vertex.dtype.names:
        vertex[name] = rng.normal(scale=2.0, size=count)
    return vertex


@pytest.mark.parametrize(("text", "order"), [(False, "<"), (False, ">"), (True, "=")])
def test_foreign_file(tmp_path, text, order):
    vertex = foreign_vertex(50)
    PlyData([PlyElement.describe(vertex, "vertex")], text=text, byte_order=order).write(str(tmp_path / "a.ply"))
    gaussians = load_gaussians(tmp_path / "a.ply")
    quats = np.stack([vertex[f"rot_{i}"] for i in range(4)], 1)
    np.testing.assert_allclose(gaussians.quats, quats / np.linalg.norm(quats, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(gaussians.means[:, 1], vertex["y"], rtol=1e-6)
    assert gaussians.colors.min() >= 0 and gaussians.colors.max() <= 1
    assert load_extra(tmp_path / "a.ply") == {}


@pytest.mark.parametrize("name", ["x", "opacity", "f_dc_1", "scale_1", "rot_3"])
def test_missing_property_is_named(tmp_path, name):
    PlyData([PlyElement.describe(foreign_vertex(2, drop=name), "vertex")]).write(str(tmp_path / "a.ply"))
    with pytest.raises(PlyFormatError, match=rf"no property {name}\b"):
        load_gaussians(tmp_path / "a.ply")


def test_broken_files(tmp_path):
    path = tmp_path / "a.ply"
    save_gaussians(path, random_gaussians(10))
    whole = path.read_bytes()
    for content in (b"", b"\x89PNG\r\n\x1a\n\x00\xff", whole[:100], whole[:-1], whole.replace(b"vertex", b"vortex")):
        path.write_bytes(content)
        with pytest.raises(PlyFormatError, match=r"a\.ply"):
            load_gaussians(path)
    with pytest.raises(FileNotFoundError):
        load_gaussians(tmp_path / "none.ply")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", np.nan, "1 with a position that is not finite"),
        ("rot", 0.0, "1 with a rotation of zeros"),
        ("rot", np.inf, "1 with a rotation that is not finite"),
        ("scale_0", 99, "1 with a scale that is not finite"),
        ("scale_0", 17, "1 with a scale above 1e\\+07 m"),
        ("opacity", np.nan, "1 with an opacity not in"),
        ("f_dc_1", np.nan, "1 with a colour that is not finite"),
    ],
)
def test_values_that_are_no_gaussians(tmp_path, name, value, message):
    vertex = foreign_vertex(4, rest=0)
    for column in ("rot_0", "rot_1", "rot_2", "rot_3") if name == "rot" else (name,):
        vertex[column][2] = value
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(tmp_path / "a.ply"))
    with pytest.raises(PlyFormatError, match=message):
        load_gaussians(tmp_path / "a.ply")


def test_failed_write_leaves_the_old_file(tmp_path):
    save_gaussians(tmp_path / "a.ply", random_gaussians(2))
    before = (tmp_path / "a.ply").read_bytes()
    bad = random_gaussians(2)
    bad.means[0, 0] = float("nan")
    with pytest.raises(PlyFormatError):
        save_gaussians(tmp_path / "a.ply", bad)
    assert (tmp_path / "a.ply").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def test_discs_of_2dgs(tmp_path):
    """Two scales: flat along the third axis, which is the normal."""
    vertex = foreign_vertex(20, rest=0, drop="scale_2")
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(tmp_path / "a.ply"))
    gaussians = load_gaussians(tmp_path / "a.ply")
    np.testing.assert_allclose(gaussians.scales[:, :2], np.exp([vertex["scale_0"], vertex["scale_1"]]).T, rtol=1e-6)
    assert not gaussians.scales[:, 2].any()
    rotations = Rotation.from_quat(np.stack([vertex[f"rot_{i}"] for i in range(4)], 1), scalar_first=True)
    np.testing.assert_allclose(shortest_axes(gaussians), rotations.as_matrix()[:, :, 2], atol=1e-5)


def test_colours_of_nerfstudio(tmp_path):
    """Its --ply-color-mode rgb writes bytes where others write harmonics."""
    kept = [n for n in foreign_vertex(1, rest=0).dtype.names if not n.startswith("f_dc")]
    vertex = np.zeros(9, [*((n, "f4") for n in kept), *((n, "u1") for n in ("red", "green", "blue"))])
    for name in vertex.dtype.names:
        vertex[name] = np.arange(9) * 30 if vertex.dtype[name] == "u1" else np.arange(9)
    vertex["rot_0"] = 1
    vertex["blue"] = 255
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(tmp_path / "a.ply"))
    gaussians = load_gaussians(tmp_path / "a.ply")
    assert (gaussians.colors * 255).round()[:, 0].tolist() == vertex["red"].tolist()
    assert (gaussians.colors[:, 2] == 1).all()
    wide = vertex.astype([(n, "f4") for n in vertex.dtype.names])
    PlyData([PlyElement.describe(wide, "vertex")]).write(str(tmp_path / "a.ply"))
    with pytest.raises(PlyFormatError, match="red, green, blue of Gaussians: expected uchar"):
        load_gaussians(tmp_path / "a.ply")


# --- SuperSplat's compressed form -----------------------------------------------------------------------------------


def pack(gaussians: Gaussians, color_bounds: bool) -> tuple[np.ndarray, np.ndarray]:
    """An independent, one-by-one writer of the compressed form."""
    axes = ["x", "y", "z", "scale_x", "scale_y", "scale_z"] + (["r", "g", "b"] if color_bounds else [])
    names = [f"{end}_{a}" for group in (axes[:3], axes[3:6], axes[6:]) for end in ("min", "max") for a in group]
    chunks = np.zeros(-(-len(gaussians) // 256), [(n, "f4") for n in names])
    vertex = np.zeros(len(gaussians), [(f"packed_{n}", "u4") for n in ("position", "rotation", "scale", "color")])
    values = np.concatenate([gaussians.means, np.log(gaussians.scales), gaussians.colors], 1).astype(np.float64)
    for i, row in enumerate(values):
        chunk = chunks[i // 256]
        members = values[i // 256 * 256 : i // 256 * 256 + 256]
        for column, axis in enumerate(axes):
            chunk[f"min_{axis}"], chunk[f"max_{axis}"] = members[:, column].min(), members[:, column].max()

        def unit(column, row=row, chunk=chunk):
            if column >= len(axes):
                return row[column]
            low, high = chunk[f"min_{axes[column]}"], chunk[f"max_{axes[column]}"]
            return min(max((row[column] - low) / max(high - low, 1e-9), 0), 1)

        def word(fields):
            result = 0
            for fraction, bits in fields:
                result = result << bits | round(fraction * (2**bits - 1))
            return result

        vertex["packed_position"][i] = word([(unit(0), 11), (unit(1), 10), (unit(2), 11)])
        vertex["packed_scale"][i] = word([(unit(3), 11), (unit(4), 10), (unit(5), 11)])
        alpha = float(gaussians.opacities[i])
        vertex["packed_color"][i] = word([(unit(6), 8), (unit(7), 8), (unit(8), 8), (alpha, 8)])
        q = gaussians.quats[i].double().numpy()
        largest = int(np.argmax(np.abs(q)))
        q = q * np.sign(q[largest])
        rest = [(q[j] * np.sqrt(0.5) + 0.5, 10) for j in range(4) if j != largest]
        vertex["packed_rotation"][i] = largest << 30 | word(rest)
    return chunks, vertex


@pytest.mark.parametrize("color_bounds", [True, False])
def test_compressed(tmp_path, color_bounds):
    before = random_gaussians(600, seed=5)
    chunks, vertex = pack(before, color_bounds)
    elements = [PlyElement.describe(chunks, "chunk"), PlyElement.describe(vertex, "vertex")]
    if color_bounds:
        harmonics = np.zeros(600, [(f"f_rest_{i}", "u1") for i in range(9)])
        elements.append(PlyElement.describe(harmonics, "sh"))
    PlyData(elements, byte_order="<").write(str(tmp_path / "a.compressed.ply"))
    after = load_gaussians(tmp_path / "a.compressed.ply")
    extent = before.means.max(0).values - before.means.min(0).values
    assert ((after.means - before.means).abs() <= extent / 1023).all()
    assert (torch.log(after.scales / before.scales)).abs().max() <= 9 / 1023
    assert (after.colors - before.colors).abs().max() <= 0.51 / 255
    assert (after.opacities - before.opacities).abs().max() <= 0.51 / 255
    a, b = (Rotation.from_quat(g.quats.numpy(), scalar_first=True) for g in (before, after))
    assert (a.inv() * b).magnitude().max() < np.deg2rad(0.35)
    torch.testing.assert_close(after.quats.norm(dim=1), torch.ones(600))
    assert load_extra(tmp_path / "a.compressed.ply") == {}


def test_compressed_known_words(tmp_path):
    """Words put together by hand from the table of the format."""
    bounds = {"min_x": -1, "max_x": 1, "min_y": 0, "max_y": 10, "min_z": 5, "max_z": 5}
    bounds |= {f"{end}_scale_{a}": {"min": -4, "max": 0}[end] for end in ("min", "max") for a in "xyz"}
    chunk = np.zeros(1, [(name, "f4") for name in bounds])
    for name, value in bounds.items():
        chunk[name] = value
    vertex = np.zeros(2, [(f"packed_{n}", "u4") for n in ("position", "rotation", "scale", "color")])
    vertex["packed_position"] = [0, (2047 << 21) | (1023 << 11) | 2047]
    # all three others at zero would be 511.5; the largest is z (index 3), then w
    vertex["packed_rotation"] = [(3 << 30) | (512 << 20) | (512 << 10) | 512, 512 << 20 | 512 << 10 | 512]
    vertex["packed_scale"] = [0, 0xFFFFFFFF]
    vertex["packed_color"] = [0xFF000000, 0x00FF00FF]
    elements = [PlyElement.describe(chunk, "chunk"), PlyElement.describe(vertex, "vertex")]
    PlyData(elements, byte_order="<").write(str(tmp_path / "a.ply"))
    g = load_gaussians(tmp_path / "a.ply")
    np.testing.assert_allclose(g.means, [[-1, 0, 5], [1, 10, 5]])
    np.testing.assert_allclose(g.quats, [[0, 0, 0, 1], [1, 0, 0, 0]], atol=2e-3)
    np.testing.assert_allclose(g.scales, [[np.exp(-4)] * 3, [1] * 3], rtol=1e-6)
    np.testing.assert_array_equal(g.colors, [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(g.opacities, [0, 1])


def test_compressed_flat_splats(tmp_path):
    """A bound of -inf is a scale of 0 at every fraction, 0 and 1 among them."""
    before = random_gaussians(300)
    chunks, vertex = pack(before, True)
    for axis in "xyz":
        chunks[f"min_scale_{axis}"] = -np.inf
    chunks["max_scale_x"] = -np.inf
    vertex["packed_scale"][:3] = (0, 0xFFFFFFFF, 1 << 21 | 1 << 11 | 1)
    elements = [PlyElement.describe(chunks, "chunk"), PlyElement.describe(vertex, "vertex")]
    PlyData(elements, byte_order="<").write(str(tmp_path / "a.ply"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scales = load_gaussians(tmp_path / "a.ply").scales
    assert not scales[:, 0].any()
    np.testing.assert_allclose(scales[1, 1:], np.exp([chunks["max_scale_y"][0], chunks["max_scale_z"][0]]), rtol=1e-6)
    assert not scales[[0, 2]].any()


def test_compressed_with_chunks_left_over(tmp_path):
    before = random_gaussians(300)
    chunks, vertex = pack(before, True)
    for count in (2, 5):
        elements = [PlyElement.describe(np.resize(chunks, count), "chunk"), PlyElement.describe(vertex, "vertex")]
        PlyData(elements, byte_order="<").write(str(tmp_path / f"{count}.ply"))
    assert torch.equal(load_gaussians(tmp_path / "2.ply").means, load_gaussians(tmp_path / "5.ply").means)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda chunks, vertex: [vertex], "no element 'chunk'"),
        (lambda chunks, vertex: [chunks[[n for n in chunks.dtype.names if n != "min_scale_x"]], vertex], "min_scale_x"),
        (
            lambda chunks, vertex: [chunks, vertex[["packed_position", "packed_scale", "packed_color"]]],
            "packed_rotation",
        ),
        (lambda chunks, vertex: [chunks[:1], vertex], "1 chunks for 300 vertices: expected 2 or more"),
        (lambda chunks, vertex: [chunks[[n for n in chunks.dtype.names if n != "max_g"]], vertex], "max_g"),
    ],
)
def test_compressed_broken(tmp_path, break_it, message):
    arrays = break_it(*pack(random_gaussians(300), True))
    elements = [
        PlyElement.describe(repack_fields(a), "vertex" if "packed" in a.dtype.names[0] else "chunk") for a in arrays
    ]
    PlyData(elements, byte_order="<").write(str(tmp_path / "a.ply"))
    with pytest.raises(PlyFormatError, match=message):
        load_gaussians(tmp_path / "a.ply")
