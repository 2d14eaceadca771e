//! The log of what the simulators were asked, for tests that ask how often.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::Value;

use crate::account::Provider;
use crate::clock::Moment;

/// How many requests are remembered.
const REQUESTS_MAX: usize = 5_000;

#[derive(Serialize)]
pub struct Request {
    pub at: Moment,
    pub provider: Provider,
    pub operation: &'static str,
    pub method: String,
    pub path: String,
    /// Null if it was no JSON.
    pub body: Value,
    pub idempotency_key: Option<String>,
    /// Nothing while it is under way, and where nothing was answered.
    pub status: Option<u16>,
    pub faults: Vec<crate::faults::Fault>,
    #[serde(skip)]
    pub number: u64,
}

#[derive(Default)]
pub struct Requests {
    log: VecDeque<Request>,
    last: u64,
}

impl Requests {
    /// Its number.
    pub fn came(&mut self, mut request: Request) -> u64 {
        if self.log.len() == REQUESTS_MAX {
            self.log.pop_front();
        }
        self.last += 1;
        request.number = self.last;
        self.log.push_back(request);
        self.last
    }

    pub fn answered(&mut self, number: u64, status: u16) {
        if let Ok(at) = self.log.binary_search_by_key(&number, |it| it.number) {
            self.log[at].status = Some(status);
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Request> {
        self.log.iter()
    }

    pub fn clear(&mut self) {
        self.log.clear();
    }
}
