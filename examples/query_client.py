"""A ROS 2 client: ask the running node where something is.

python examples/query_client.py "something to sit on"
"""

from __future__ import annotations

import sys

import rclpy
from chorus_msgs.srv import Query


def main(text: str) -> None:
    rclpy.init()
    node = rclpy.create_node("query_client")
    try:
        client = node.create_client(Query, "chorus/query")
        if not client.wait_for_service(timeout_sec=30.0):
            sys.exit("chorus/query is not offered: is perception_node running?")
        future = client.call_async(Query.Request(text=text, max_objects=3))
        rclpy.spin_until_future_complete(node, future, timeout_sec=30.0)
        answer = future.result()
        if answer is None:
            sys.exit("no answer within 30 s")
        if not answer.success:
            sys.exit(answer.message)
        print(f"map {answer.map_id}: {len(answer.objects)} found")
        for item in answer.objects:
            p = item.pose.position
            print(f"object {item.id}: {item.score:.2f} at {p.x:.2f} {p.y:.2f} {p.z:.2f} in {item.header.frame_id}")
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
