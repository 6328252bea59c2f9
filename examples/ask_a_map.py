"""Ask a saved map, without a camera and without encoding anything.

python examples/ask_a_map.py out/map.ply "something to sit on" "an elephant"
"""

from __future__ import annotations

import sys

from chorus_core.saved_map import open_saved_map


def main(path: str, *texts: str) -> None:
    saved = open_saved_map(path)
    print(f"map {saved.labelled.map_id}: {len(saved.labelled)} Gaussians, {len(saved.labelled.objects)} objects")
    for text in texts:
        answer = saved.query(text)
        if not answer.objects:
            print(f"{text}: nothing")
        for item in answer.objects[:3]:
            print(
                f"{text}: {item.score:.2f} at {item.box_center.round(2)} m, object {item.id}, seen {item.last_seen} ns"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
