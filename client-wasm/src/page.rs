//! The page's part of direct links: it makes and describes `RTCPeerConnection`s, and moves their data
//! channels to the peer worker. Where channels cannot move, it pumps their messages instead.
//!
//! Descriptions are passed on as the browser made them; the worker signs them.

use core::cell::{Cell, RefCell};
use std::{collections::BTreeMap, rc::Rc};

use js_sys::{Array, Function, Object, Promise, Reflect};
use serde::Serialize;
use wasm_bindgen::{JsCast, JsValue, closure::Closure, prelude::wasm_bindgen};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    RtcDataChannel, RtcDataChannelInit, RtcIceCandidateInit, RtcPeerConnection, RtcPeerConnectionIceEvent,
    RtcPeerConnectionState, RtcSdpType, RtcSessionDescriptionInit,
};

use crate::{
    blob::Blob,
    lane::{Broken, Lane, LaneEvent},
    messages::{LinkCommand, LinkName, LinkNews},
    scope,
};

struct PageLink {
    connection: RtcPeerConnection,
    /// Control and bulk, where they stay on the page.
    lanes: Vec<Lane>,
    _on_candidate: Closure<dyn FnMut(RtcPeerConnectionIceEvent)>,
    _on_state: Closure<dyn FnMut()>,
}

impl Drop for PageLink {
    fn drop(&mut self) {
        self.connection.set_onicecandidate(None);
        self.connection.set_onconnectionstatechange(None);
        self.connection.close();
    }
}

struct Inner {
    post: Function,
    links: RefCell<BTreeMap<LinkName, PageLink>>,
    /// Whether this browser moves data channels to workers; found out by the first try.
    moves: Cell<bool>,
}

/// All direct links of a session.
#[wasm_bindgen]
pub struct PageLinks(Rc<Inner>);

#[wasm_bindgen]
impl PageLinks {
    /// `post(message, transfer)` reaches the peer worker.
    #[wasm_bindgen(constructor)]
    pub fn new(post: Function) -> Self {
        Self(Rc::new(Inner { post, links: RefCell::default(), moves: Cell::new(true) }))
    }

    /// Does what the peer worker asks.
    pub fn handle(&self, command: JsValue) -> Result<(), JsValue> {
        let command: LinkCommand = serde_wasm_bindgen::from_value(command)?;
        self.0.obey(command);
        Ok(())
    }

    #[wasm_bindgen(js_name = closeAll)]
    pub fn close_all(&self) {
        self.0.links.borrow_mut().clear();
    }
}

impl Inner {
    fn obey(self: &Rc<Self>, command: LinkCommand) {
        match command {
            LinkCommand::Offer { link } => {
                let work = self.open(&link).map(|connection| describe(connection, None));
                self.answer(link, true, work);
            }
            LinkCommand::AcceptOffer { link, sdp } => {
                let work = self.open(&link).map(|connection| {
                    // Called now, not in the task: candidates that follow must queue behind it.
                    let accepted = connection.set_remote_description(&description(RtcSdpType::Offer, &sdp));
                    describe(connection, Some(accepted))
                });
                self.answer(link, false, work);
            }
            LinkCommand::AcceptAnswer { link, sdp } => {
                let connection = self.links.borrow().get(&link).map(|open| open.connection.clone());
                let Some(connection) = connection else { return };
                let accepted = connection.set_remote_description(&description(RtcSdpType::Answer, &sdp));
                let inner = Rc::clone(self);
                spawn_local(async move {
                    if let Err(error) = JsFuture::from(accepted).await {
                        inner.failed(link, &error);
                    }
                });
            }
            LinkCommand::AddCandidate { link, candidate, mid, line } => {
                let links = self.links.borrow();
                let Some(open) = links.get(&link) else { return };
                let init = RtcIceCandidateInit::new(&candidate);
                init.set_sdp_mid(mid.as_deref());
                init.set_sdp_m_line_index(line);
                let added = open.connection.add_ice_candidate_with_opt_rtc_ice_candidate_init(Some(&init));
                spawn_local(async move {
                    // One candidate that a browser cannot use is ordinary; others may do.
                    JsFuture::from(added).await.ok();
                });
            }
            LinkCommand::Close { link } => drop(self.links.borrow_mut().remove(&link)),
            LinkCommand::Write { link, bulk, piece } => {
                let written = match self.links.borrow_mut().get_mut(&link) {
                    Some(open) => match open.lanes.get_mut(usize::from(bulk)) {
                        Some(lane) => lane.write(piece.0),
                        None => Err(Broken),
                    },
                    None => Ok(()),
                };
                if written.is_err() {
                    self.tell(&LinkNews::Closed { link });
                }
            }
        }
    }

    fn answer<F>(self: &Rc<Self>, link: LinkName, offer: bool, work: Result<F, JsValue>)
    where
        F: Future<Output = Result<String, JsValue>> + 'static,
    {
        match work {
            Ok(work) => {
                let inner = Rc::clone(self);
                spawn_local(async move {
                    match work.await {
                        Ok(sdp) => inner.tell(&LinkNews::Described { link, offer, sdp }),
                        Err(error) => inner.failed(link, &error),
                    }
                });
            }
            Err(error) => self.failed(link, &error),
        }
    }

    /// Makes a connection with its two channels.
    fn open(self: &Rc<Self>, link: &LinkName) -> Result<RtcPeerConnection, JsValue> {
        let connection = RtcPeerConnection::new()?;
        let channels = [channel(&connection, "control", 0), channel(&connection, "bulk", 1)];
        // Channels may move only in the turn in which they were made.
        let lanes = if self.move_channels(link, &channels) { Vec::new() } else { self.keep_channels(link, channels) };
        let (inner, name) = (Rc::clone(self), link.clone());
        let on_candidate = Closure::<dyn FnMut(_)>::new(move |event: RtcPeerConnectionIceEvent| {
            let Some(candidate) = event.candidate().filter(|candidate| !candidate.candidate().is_empty()) else {
                return;
            };
            inner.tell(&LinkNews::Candidate {
                link: name.clone(),
                candidate: candidate.candidate(),
                mid: candidate.sdp_mid(),
                line: candidate.sdp_m_line_index(),
            });
        });
        connection.set_onicecandidate(Some(on_candidate.as_ref().unchecked_ref()));
        let (inner, name, watched) = (Rc::clone(self), link.clone(), connection.clone());
        let on_state = Closure::<dyn FnMut()>::new(move || {
            if matches!(watched.connection_state(), RtcPeerConnectionState::Failed | RtcPeerConnectionState::Closed) {
                inner.tell(&LinkNews::Closed { link: name.clone() });
            }
        });
        connection.set_onconnectionstatechange(Some(on_state.as_ref().unchecked_ref()));
        let made = PageLink { connection: connection.clone(), lanes, _on_candidate: on_candidate, _on_state: on_state };
        self.links.borrow_mut().insert(link.clone(), made);
        Ok(connection)
    }

    fn move_channels(&self, link: &LinkName, [control, bulk]: &[RtcDataChannel; 2]) -> bool {
        if !self.moves.get() {
            return false;
        }
        let message = Object::new();
        let fields: [(&str, JsValue); 4] = [
            ("type", "channels".into()),
            ("link", scope::to_js(link)),
            ("control", control.into()),
            ("bulk", bulk.into()),
        ];
        let filled = fields.iter().all(|(name, value)| Reflect::set(&message, &(*name).into(), value).is_ok());
        let transfer = Array::of2(control, bulk);
        let moved = filled && self.post.call2(&JsValue::NULL, &message, &transfer).is_ok();
        self.moves.set(moved);
        moved
    }

    fn keep_channels(self: &Rc<Self>, link: &LinkName, channels: [RtcDataChannel; 2]) -> Vec<Lane> {
        self.tell(&LinkNews::Pumped { link: link.clone() });
        channels
            .into_iter()
            .zip([false, true])
            .map(|(channel, bulk)| {
                let (inner, link) = (Rc::clone(self), link.clone());
                Lane::new(channel, Rc::new(move |event| inner.lane_event(&link, bulk, event)))
            })
            .collect()
    }

    fn lane_event(&self, link: &LinkName, bulk: bool, event: LaneEvent) {
        let link = link.clone();
        match event {
            LaneEvent::Open => {
                let both = self.links.borrow().get(&link).is_some_and(|open| open.lanes.iter().all(Lane::is_open));
                if both {
                    self.tell(&LinkNews::Opened { link });
                }
            }
            LaneEvent::Piece(bytes) => self.tell(&LinkNews::Piece { link, bulk, bytes: Blob(bytes) }),
            LaneEvent::Room => {
                let flushed = self
                    .links
                    .borrow_mut()
                    .get_mut(&link)
                    .and_then(|open| open.lanes.get_mut(usize::from(bulk)))
                    .map_or(Ok(()), Lane::flush);
                if flushed.is_err() {
                    self.tell(&LinkNews::Closed { link });
                }
            }
            LaneEvent::Closed => self.tell(&LinkNews::Closed { link }),
        }
    }

    fn failed(&self, link: LinkName, error: &JsValue) {
        web_sys::console::warn_2(&"a direct link could not be made".into(), error);
        self.tell(&LinkNews::Closed { link });
    }

    fn tell<T: Serialize>(&self, news: &T) {
        let posted = self.post.call2(&JsValue::NULL, &scope::to_js(news), &Array::new());
        if let Err(error) = posted {
            web_sys::console::error_2(&"a message to the peer worker was refused".into(), &error);
        }
    }
}

/// Makes the local description: an answer once `accepted` settles, or an offer.
async fn describe(connection: RtcPeerConnection, accepted: Option<Promise>) -> Result<String, JsValue> {
    let made = match accepted {
        Some(accepted) => {
            JsFuture::from(accepted).await?;
            connection.create_answer()
        }
        None => connection.create_offer(),
    };
    let made: RtcSessionDescriptionInit = JsFuture::from(made).await?.unchecked_into();
    JsFuture::from(connection.set_local_description(&made)).await?;
    let local = connection.local_description().ok_or_else(|| JsValue::from_str("no local description"))?;
    Ok(local.sdp())
}

fn description(kind: RtcSdpType, sdp: &str) -> RtcSessionDescriptionInit {
    let init = RtcSessionDescriptionInit::new(kind);
    init.set_sdp(sdp);
    init
}

/// Both sides name the channels beforehand, which saves a round trip.
fn channel(connection: &RtcPeerConnection, label: &str, id: u16) -> RtcDataChannel {
    let init = RtcDataChannelInit::new();
    init.set_negotiated(true);
    init.set_id(id);
    let channel = connection.create_data_channel_with_data_channel_dict(label, &init);
    channel.set_binary_type(web_sys::RtcDataChannelType::Arraybuffer);
    channel
}
