//! Direct links in the worker: the data channels that the page moved here, or those that it pumps.

use std::{collections::BTreeMap, rc::Rc};

use shoal_wire::PeerId;
use web_sys::RtcDataChannel;

use super::driver::News;
use crate::{
    blob::Blob,
    inbox::Inbox,
    lane::{Broken, Lane, LaneEvent},
    messages::{LinkCommand, LinkName, PeerNews},
    scope,
};

/// Names a direct link as the mesh does.
pub type LinkKey = (PeerId, u64);

enum Link {
    /// The page was asked for it, and has not answered.
    Asked,
    /// Control and bulk.
    Moved([Lane; 2]),
    Pumped,
}

pub struct Links {
    inbox: Inbox<News>,
    links: BTreeMap<LinkKey, Link>,
}

pub fn key(name: &LinkName) -> Option<LinkKey> {
    Some((name.peer, name.attempt.parse().ok()?))
}

impl Links {
    pub fn new(inbox: Inbox<News>) -> Self {
        Self { inbox, links: BTreeMap::new() }
    }

    /// Has the page do something about a link.
    pub fn command(command: LinkCommand) {
        scope::post(&PeerNews::Link { command });
    }

    pub fn asked(&mut self, key: LinkKey) {
        self.links.insert(key, Link::Asked);
    }

    /// Takes over channels; those of a link that was closed meanwhile are closed.
    pub fn take(&mut self, key: LinkKey, channels: [RtcDataChannel; 2]) {
        let inbox = &self.inbox;
        let mut bulk = false;
        let lanes = channels.map(|channel| {
            let (inbox, of_bulk) = (inbox.clone(), bulk);
            bulk = true;
            Lane::new(channel, Rc::new(move |event| inbox.push(News::Lane { key, bulk: of_bulk, event })))
        });
        if let Some(link) = self.links.get_mut(&key) {
            *link = Link::Moved(lanes);
            // A channel that opened on the way here has said so to nobody.
            self.inbox.push(News::Lane { key, bulk: false, event: LaneEvent::Open });
        }
    }

    pub fn pumped(&mut self, key: LinkKey) {
        if let Some(link) = self.links.get_mut(&key) {
            *link = Link::Pumped;
        }
    }

    pub fn both_open(&self, key: LinkKey) -> bool {
        matches!(self.links.get(&key), Some(Link::Moved(lanes)) if lanes.iter().all(Lane::is_open))
    }

    pub fn write(&mut self, key: LinkKey, bulk: bool, piece: Vec<u8>) -> Result<(), Broken> {
        match self.links.get_mut(&key) {
            Some(Link::Moved(lanes)) => lanes[usize::from(bulk)].write(piece),
            Some(Link::Pumped) => {
                let link = LinkName::new(key.0, key.1);
                Self::command(LinkCommand::Write { link, bulk, piece: Blob(piece) });
                Ok(())
            }
            Some(Link::Asked) | None => Err(Broken),
        }
    }

    pub fn flush(&mut self, key: LinkKey, bulk: bool) -> Result<(), Broken> {
        match self.links.get_mut(&key) {
            Some(Link::Moved(lanes)) => lanes[usize::from(bulk)].flush(),
            _ => Ok(()),
        }
    }

    pub fn close(&mut self, key: LinkKey) {
        self.links.remove(&key);
        Self::command(LinkCommand::Close { link: LinkName::new(key.0, key.1) });
    }
}
