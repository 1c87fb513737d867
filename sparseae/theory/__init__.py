"""The theory: its terms in a run, and its checks without one."""
