//! The page at `/`: watch a topic and publish to it from a browser.

/// The page.
pub const PAGE: &str = include_str!("page.html");

/// The headers of the page. With them it loads nothing else, and connects only to its own hub.
pub const HEADERS: &[(&str, &str)] = &[
    ("cache-control", "no-cache"),
    (
        "content-security-policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];
