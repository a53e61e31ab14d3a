"""The commands of irv2data, one module each; installed as `irv2data.tools`."""
