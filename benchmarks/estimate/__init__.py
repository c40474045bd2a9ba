"""How far off the proxy's token estimate is."""
