"""Map a recording, say what is in it, and save it.

python examples/map_a_recording.py data/house_drive/bag out/map.ply
"""

from __future__ import annotations

import sys
from pathlib import Path

from chorus_core.config import Config, parse
from chorus_core.io.rgbd import open_sequence
from chorus_core.pipeline import Pipeline


def main(recording: str, out: str) -> None:
    pipeline = Pipeline(
        parse(Config, {"map.voxel_size": 0.08, "semantics": {"vocabulary": "house", "object_gap": 0.2}})
    )
    for number, frame in enumerate(open_sequence(Path(recording))):
        pipeline.integrate(frame)
        if number % 50 == 49:  # a robot does this in the background: see Pipeline.start
            pipeline.encode_step()
    pipeline.encode_all()
    for item in pipeline.objects()[:10]:
        x, y, z = item.centroid
        print(f"object {item.id}: {item.label} of {item.count} Gaussians at {x:.2f} {y:.2f} {z:.2f} m")
    print(f"saved {pipeline.save(out)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
