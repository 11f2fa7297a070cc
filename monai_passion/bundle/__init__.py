"""Bundles: what their configurations call, how they are made, exported and trusted."""
