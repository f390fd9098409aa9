//! The page at `/`: watch topics and publish to them from a browser.

/// The page.
pub const PAGE: &str = include_str!("page.html");

/// The headers of the page. With them it loads scripts from its own hub alone, and connects only to this hub.
pub const HEADERS: &[(&str, &str)] = &[
    ("cache-control", "no-cache"),
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'",
    ),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];
