"""ROS 2 nodes around :mod:`chorus_core`: conversions, pairing, poses, services. No algorithm lives here."""
