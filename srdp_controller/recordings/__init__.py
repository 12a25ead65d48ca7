"""MCAP recordings: files, topics, numbers, episodes. Neither torch nor ROS."""
