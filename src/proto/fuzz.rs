//! The bodies of the fuzz targets: each takes any bytes and panics on a broken invariant. Tests run them too.
