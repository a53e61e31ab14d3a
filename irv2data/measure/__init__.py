"""How fast each part is on this machine, and what to change: `irv2data bench` and `irv2data doctor`."""
