//! What a server refuses a user. It says so on the connection and gives no answer, so whoever asked would
//! wait in vain: here the two are brought together again.

use std::fmt;
use std::sync::Arc;

use tokio::sync::broadcast;

/// Denials that a slow listener may have missed before the oldest are dropped.
const HEARD_MAX: usize = 64;

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// To publish.
    Publish,
    /// To subscribe.
    Subscribe,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Publish => "publish to",
            Self::Subscribe => "subscribe to",
        })
    }
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Denial {
    /// What was refused.
    pub action: Action,
    /// Of which subject.
    pub subject: String,
}

impl Denial {
    /// Reads a server's words, such as `Permissions Violation for Publish to "a.b"`.
    pub fn of(words: &str) -> Option<Self> {
        let (_, what) = words.split_once("Permissions Violation for ")?;
        let (action, rest) = what.split_once('"')?;
        let subject = rest.split('"').next()?.to_owned();
        let action = if action.starts_with("Subscription") { Action::Subscribe } else { Action::Publish };
        Some(Self { action, subject })
    }
}

/// The refusals of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Denials {
    user: Arc<str>,
    heard: broadcast::Sender<Denial>,
}

impl Denials {
    /// Those of a connection that is `user`'s.
    pub(crate) fn new(user: &str) -> Self {
        Self { user: user.into(), heard: broadcast::Sender::new(HEARD_MAX) }
    }

    /// Whose they are.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Passes one on to whoever listens.
    pub(crate) fn tell(&self, denial: Denial) {
        // Nobody may be waiting: the log has it too.
        let _ = self.heard.send(denial);
    }

    /// Listens from now on.
    pub(crate) fn listen(&self) -> Listening {
        Listening(self.heard.subscribe())
    }
}

/// Hears the refusals of one connection.
#[derive(Debug)]
pub(crate) struct Listening(broadcast::Receiver<Denial>);

impl Listening {
    /// Waits for one whose subject `concerns` the caller; for ever where none comes.
    pub(crate) async fn hear(&mut self, concerns: impl Fn(&str) -> bool) -> Denial {
        loop {
            match self.0.recv().await {
                Ok(denial) if concerns(&denial.subject) => return denial,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_name_the_action_and_the_subject() {
        let check = |words: &str, action, subject: &str| {
            assert_eq!(Denial::of(words), Some(Denial { action, subject: subject.to_owned() }), "{words}");
        };
        check("nats: Permissions Violation for Publish to \"a.b\"", Action::Publish, "a.b");
        check(
            "Permissions Violation for Subscription to \"a.>\" using queue \"q\"",
            Action::Subscribe,
            "a.>",
        );
        check("Permissions Violation for Publish with Reply of \"_INBOX.x\"", Action::Publish, "_INBOX.x");
        assert_eq!(Denial::of("maximum payload exceeded"), None);
    }

    #[tokio::test]
    async fn a_listener_hears_only_what_concerns_it() {
        let denials = Denials::new("agent-a");
        let mut listening = denials.listen();
        for subject in ["other", "mine"] {
            denials.tell(Denial { action: Action::Publish, subject: subject.into() });
        }
        assert_eq!(listening.hear(|subject| subject == "mine").await.subject, "mine");
    }
}
