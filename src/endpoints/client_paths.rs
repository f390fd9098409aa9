//! Gives the files of the client in JavaScript their paths, on servers with topics.

use std::cmp::Reverse;

use super::{ClientFile, Endpoint, Endpoints, Target};
use crate::{handler::Pattern, proto::RequestPath};

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
