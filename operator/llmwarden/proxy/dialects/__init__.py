"""How providers' APIs are understood; each module implements `base.Dialect`."""
