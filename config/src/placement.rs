//! Placement: which node holds which module, which database its data, and what a process keeps and listens at as one of
//! the nodes.
//!
//! Without nodes everything is here. A config that was loaded for a node is a whole one: it knows the modules of all
//! nodes, and answers for its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::database::Database;
use crate::names::NodeName;
use crate::tree::Config;

impl Config {
    /// The node this was loaded for, one of `nodes`; none without placement, or to look at the whole.
    pub fn node(&self) -> Option<&NodeName> {
        self.node.as_ref()
    }

    /// The nodes where a module is placed, in the order of their names; empty when there are no nodes.
    pub fn nodes_of(&self, module: &str) -> Vec<&NodeName> {
        self.nodes.iter().filter(|(_, node)| node.modules.contains(module)).map(|(name, _)| name).collect()
    }

    /// Whether a module runs in the process of this config: it is placed on its node, or no node was chosen.
    pub fn is_here(&self, module: &str) -> bool {
        self.own().is_none_or(|node| node.modules.contains(module))
    }

    /// The database of a module, its own `url` or else `data.url`, and the key that says so.
    pub fn database_of<'a>(&'a self, module: &'a str) -> (&'a Database, Vec<&'a str>) {
        match self.modules.get(module).and_then(|module| module.url.as_ref()) {
            Some(own) => (own, vec!["modules", module, "url"]),
            None => (&self.data.url, vec!["data", "url"]),
        }
    }

    /// Where to listen: the `listen` of the node if one was chosen, else `http.listen`.
    pub fn listen(&self) -> Option<SocketAddr> {
        self.own().map_or(self.http.listen, |node| node.listen)
    }

    /// The folder of everything the process keeps: that of the node if one was chosen, else `data.dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.node.as_ref().map_or_else(|| self.data.dir.clone(), |node| self.data_dir_of(node))
    }

    /// The folder of everything a node keeps: its `data`, or the folder of its name in `data.dir`.
    pub fn data_dir_of(&self, node: &NodeName) -> PathBuf {
        let own = self.nodes.get(node).and_then(|node| node.data.clone());
        own.unwrap_or_else(|| self.data.dir.join(node.as_str()))
    }

    /// The folder of compiled components: `engine.cache`, or `cache` in [`Config::data_dir`].
    pub fn cache_dir(&self) -> PathBuf {
        self.engine.cache.clone().unwrap_or_else(|| self.data_dir().join("cache"))
    }

    fn own(&self) -> Option<&crate::tree::Node> {
        self.nodes.get(self.node.as_ref()?)
    }
}
