//! The files of the client in JavaScript.

/// A file of the client in JavaScript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientFile {
    /// `/client.js`: the module.
    Module,
    /// `/client.d.ts`: its types for TypeScript.
    Types,
}

impl ClientFile {
    pub(super) const ALL: [ClientFile; 2] = [ClientFile::Module, ClientFile::Types];

    /// Returns the path of the file.
    pub(super) const fn path(self) -> &'static str {
        match self {
            ClientFile::Module => "/client.js",
            ClientFile::Types => "/client.d.ts",
        }
    }
}
