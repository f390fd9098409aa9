//! The files of the client in JavaScript, which a server with topics has.

use std::cmp::Reverse;

use super::{Endpoint, Endpoints, Target};
use crate::{handler::Pattern, proto::RequestPath};

/// A file of the client in JavaScript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientFile {
    /// `/client.js`: the module.
    Module,
    /// `/client.d.ts`: its types for TypeScript.
    Types,
}

impl ClientFile {
    const ALL: [ClientFile; 2] = [ClientFile::Module, ClientFile::Types];

    /// Returns the path of the file.
    const fn path(self) -> &'static str {
        match self {
            ClientFile::Module => "/client.js",
            ClientFile::Types => "/client.d.ts",
        }
    }
}

impl Endpoints {
    /// Adds the files of the client in JavaScript, if a route leads to topics. A route, a service or a folder that has
    /// the path of a file keeps it; of a folder at `/` see [`Endpoints::client_file_beside`].
    pub(crate) fn with_client_files(mut self) -> Endpoints {
        if !self.leads_to_topics() {
            return self;
        }
        for file in ClientFile::ALL {
            let path = RequestPath::parse(file.path()).expect("a path");
            if !self.rows.iter().any(|(pattern, _)| pattern.matches(&path)) {
                let pattern = Pattern::new(file.path()).expect("a path");
                self.rows.push((pattern, Target::Own(Endpoint::ClientFile(file))));
            }
        }
        self.rows.sort_by_key(|(pattern, _)| Reverse(pattern.precision()));
        self
    }

    /// Returns the file of the client that stands in for a document that a folder at `/` does not have.
    pub(crate) fn client_file_beside(&self, mount: usize, below: &[String]) -> Option<ClientFile> {
        let [name] = below else { return None };
        let is_asked = |file: &ClientFile| file.path()[1..] == *name;
        let has_place = self.mounts[mount].is_root() && self.leads_to_topics();
        ClientFile::ALL.into_iter().find(is_asked).filter(|_| has_place)
    }

    /// Returns whether any route leads to topics.
    fn leads_to_topics(&self) -> bool {
        self.routes.iter().any(|route| route.topics.is_some())
    }
}
