"""`make bench`: how fast the agent is, beside others, through real git-lfs."""
