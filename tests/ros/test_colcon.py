"""The workspace build a ROS user runs, with the real colcon, and what it must leave in the install space."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("colcon_core") is None, reason="colcon is not installed (requirements-dev.txt)"
)


def copy_sources(repository: Path, target: Path) -> None:
    """Tracked and new files, not ignored ones: the build must not see, or litter, the checkout."""
    listing = subprocess.run(
        ["git", "-C", str(repository), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
    )
    if listing.returncode != 0:  # an unpacked archive rather than a clone
        ignored = shutil.ignore_patterns(".venv", "out", "build", "install", "log", "__pycache__", "*.egg-info")
        shutil.copytree(repository, target, ignore=ignored)
        return
    for name in filter(None, listing.stdout.decode().split("\0")):
        source, copy = repository / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def colcon(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """colcon in a folder, with nothing of the user's configuration."""
    prefix = Path(sys.prefix)
    environment = os.environ | {
        "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", ""))),
        "AMENT_PREFIX_PATH": os.pathsep.join(filter(None, (str(prefix), os.environ.get("AMENT_PREFIX_PATH")))),
        "COLCON_HOME": str(folder / "colcon"),
    }
    command = [sys.executable, "-c", "import sys; from colcon_core.command import main; sys.exit(main())", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def install_space(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`colcon build` in a copy of the checkout; the install folder."""
    folder = tmp_path_factory.mktemp("workspace")
    sources = folder / "src"
    copy_sources(repository, sources)
    arguments = [
        *("--log-base", str(folder / "log"), "build"),
        *("--build-base", str(folder / "build"), "--install-base", str(folder / "install")),
        *("--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"),
    ]
    if importlib.util.find_spec("ros_wheels_bootstrapper"):  # ROS from wheels
        arguments.append(f"-DCMAKE_PROJECT_INCLUDE={sources / 'scripts' / 'wheel_targets.cmake'}")
    done = colcon(sources, *arguments)
    assert "2 packages finished" in done.stdout + done.stderr
    return folder / "install"


@pytest.mark.parametrize("linked", [False, True], ids=["without the link", "with the link"])
def test_packages_of_a_workspace(repository: Path, tmp_path: Path, linked: bool) -> None:
    """The checkout below src/: colcon stops at the root's package.xml, which is why the README has a link made."""
    checkout = tmp_path / "src" / "chorus_ros"
    for name in ("package.xml", "setup.py", "setup.cfg", "msg/package.xml", "msg/CMakeLists.txt"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, checkout / name)
    if linked:
        (tmp_path / "src" / "chorus_msgs").symlink_to("chorus_ros/msg")
    found = colcon(tmp_path, "--log-base", "log", "list", "--names-only").stdout.split()
    assert found == (["chorus_msgs", "chorus_ros"] if linked else ["chorus_ros"])


def test_node_executables(install_space: Path) -> None:
    for name in ("perception_node", "player_node"):
        executable = install_space / "chorus_ros" / "lib" / "chorus_ros" / name
        assert executable.is_file()
        assert os.access(executable, os.X_OK)
        # The Python of the shell that starts the node, not the one that ran colcon: an environment may have torch.
        assert executable.read_text(encoding="utf-8").splitlines()[0] == "#!/usr/bin/env python3"


def test_shared_files(install_space: Path) -> None:
    repository = install_space.parent / "src"
    share = install_space / "chorus_ros" / "share"
    assert (share / "ament_index" / "resource_index" / "packages" / "chorus_ros").is_file()
    assert (share / "chorus_ros" / "package.xml").is_file()
    for folder, pattern in (("launch", "*.launch.py"), ("config", "*.yaml"), ("rviz", "*.rviz")):
        expected = {p.name for p in (repository / folder).glob(pattern)}
        assert expected, f"nothing in {folder}/ to install"
        assert {p.name for p in (share / "chorus_ros" / folder).iterdir()} == expected


def test_library_and_its_data(install_space: Path) -> None:
    """Modules and data files (models, vocabularies) arrive beside each other."""
    repository = install_space.parent / "src"
    (site,) = (install_space / "chorus_ros" / "lib").glob("python3*/site-packages")
    for package in ("chorus_core", "chorus_ros"):
        wanted = {p.relative_to(repository) for p in (repository / package).rglob("*.py")}
        suffixes = {".safetensors", ".json", ".yaml", ".txt", ".npz"}
        wanted |= {p.relative_to(repository) for p in (repository / package).rglob("*") if p.suffix in suffixes}
        missing = sorted(str(p) for p in wanted if not (site / p).is_file())
        assert not missing


def test_interfaces(install_space: Path, repository: Path) -> None:
    share = install_space / "chorus_msgs" / "share" / "chorus_msgs"
    (site,) = (install_space / "chorus_msgs" / "lib").glob("python3*/site-packages")
    for source in (*(repository / "msg" / "msg").glob("*.msg"), *(repository / "msg" / "srv").glob("*.srv")):
        assert (share / source.parent.name / source.name).is_file()
    assert (site / "chorus_msgs" / "__init__.py").is_file()
    assert list((install_space / "chorus_msgs" / "lib").glob("libchorus_msgs__rosidl_typesupport_c.so"))
    script = "from chorus_msgs.srv import Query; import chorus_msgs; print(chorus_msgs.__file__); Query.Request()"
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "LD_LIBRARY_PATH": f"{install_space / 'chorus_msgs' / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))


def test_every_interface_field_is_commented(repository: Path) -> None:
    """A field is explained by the comment lines right above it (one comment may stand over a group)."""
    for source in (repository / "msg").glob("*/*.[ms][sr][gv]"):
        explained = False
        for line in source.read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                explained = True
            elif not line.strip() or line == "---":
                explained = False
            else:
                assert explained, f"{source.name}: no comment above {line!r}"
