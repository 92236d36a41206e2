//! Why a TLS handshake failed, in words that name the certificate and the setting.

use std::error::Error;
use std::fmt;
use std::io;

use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

use crate::tls::ClientTls;

/// What one end holds against the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The server's certificate is of a CA that is not trusted; which are.
    UnknownCa(String),
    /// The server's certificate is for other names.
    OtherName(String),
    /// The server's certificate is out of date, or otherwise not valid.
    Invalid(String),
    /// The server asks for a client certificate, and there is none.
    WantsCertificate,
    /// The server does not take the client certificate of this file.
    RefusesCertificate(String),
    /// The server cut the connection before it gave a reason; the client certificate's file, if any.
    Cut(Option<String>),
    /// What answers is no TLS server.
    NoTls,
    /// Something else.
    Other(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCa(trusted) => {
                write!(f, "the server's certificate is not signed by a CA that is trusted here ({trusted})")
            }
            Self::OtherName(names) => write!(f, "the server's certificate is for another name: {names}"),
            Self::Invalid(reason) => write!(f, "the server's certificate is not valid: {reason}"),
            Self::WantsCertificate => {
                f.write_str("the server asks for a client certificate, and none is configured here")
            }
            Self::RefusesCertificate(file) => {
                write!(f, "the server does not take the client certificate {file}")
            }
            Self::Cut(shown) => {
                f.write_str("the server cut the connection after the handshake, as one does that ")?;
                match shown {
                    Some(file) => write!(f, "does not take the client certificate {file}"),
                    None => f.write_str("asks for a client certificate, and none is configured here"),
                }
            }
            Self::NoTls => f.write_str("what answers there does not speak TLS"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

/// Where an operator sets what a handshake needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys<'a> {
    /// The configuration's section with `CaFile`, `CertFile` and `KeyFile`, as `[Hub]`; or what the flags of
    /// these files begin with, as `--bundle`.
    pub section: &'a str,
    /// The section and key of the address, as `[Hub] Url`.
    pub address: &'a str,
}

impl Keys<'_> {
    /// Where the CA of the server's certificate is named: `[Hub] CaFile`, `--bundle-ca`.
    pub fn ca(&self) -> String {
        let section = self.section;
        if self.are_flags() { format!("{section}-ca") } else { format!("{section} CaFile") }
    }

    /// Where a client's certificate and its key are named: `[Hub] CertFile and KeyFile`.
    pub fn identity(&self) -> String {
        let section = self.section;
        if self.are_flags() {
            format!("{section}-cert and {section}-key")
        } else {
            format!("{section} CertFile and KeyFile")
        }
    }

    fn are_flags(&self) -> bool {
        self.section.starts_with("--")
    }
}

impl Refusal {
    /// What the operator does about it.
    pub fn next_step(&self, keys: Keys<'_>) -> String {
        let address = keys.address;
        match self {
            Self::UnknownCa(_) => {
                format!("name the certificate of the server's CA in {}", keys.ca())
            }
            Self::OtherName(_) => {
                format!("use a name of the certificate in {address}, or give the server one for that name")
            }
            Self::Invalid(_) => "renew the server's certificate; check both clocks".to_owned(),
            Self::WantsCertificate | Self::RefusesCertificate(_) | Self::Cut(_) => {
                format!("name a certificate of the server's client CA in {}", keys.identity())
            }
            Self::NoTls => format!(
                "write {address} without TLS and unset CaFile and CertFile, or turn TLS on at the server"
            ),
            Self::Other(_) => {
                format!("check {}, {}, and the server's log", keys.ca(), keys.identity())
            }
        }
    }
}

/// What a failed connection says of TLS; `None` where it failed for another reason.
pub fn refusal(error: &(dyn Error + 'static), tls: &ClientTls) -> Option<Refusal> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(found) = rustls_error(error) {
            return Some(of(found, tls));
        }
        link = error.source();
    }
    None
}

/// What a server's alert says, where a client's error passes on only the words of it.
pub fn refusal_in(words: &str, tls: &ClientTls) -> Option<Refusal> {
    let (_, alert) = words.split_once("received fatal alert: ")?;
    let of_certificate = ["Certificate", "UnknownCA", "AccessDenied"].iter().any(|name| alert.contains(name));
    Some(match (&tls.identity, of_certificate) {
        (_, false) => Refusal::Other(words.to_owned()),
        (None, true) => Refusal::WantsCertificate,
        (Some(identity), true) => {
            Refusal::RefusesCertificate(format!("{} ({alert})", identity.cert.display()))
        }
    })
}

/// rustls's own error in a link of the chain; an `io::Error` does not show what it carries as its source.
fn rustls_error<'a>(link: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(error) = link.downcast_ref() {
        return Some(error);
    }
    let carried = link.downcast_ref::<io::Error>()?.get_ref()?;
    carried.downcast_ref().or_else(|| rustls_error(carried))
}

fn of(error: &rustls::Error, tls: &ClientTls) -> Refusal {
    match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer => Refusal::UnknownCa(
                tls.ca.as_deref().map_or_else(|| "the system's".to_owned(), |ca| ca.display().to_string()),
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Refusal::OtherName(reason.to_string())
            }
            other => Refusal::Invalid(other.to_string()),
        },
        rustls::Error::AlertReceived(alert) => match (alert, &tls.identity) {
            (AlertDescription::CertificateRequired, _) | (AlertDescription::BadCertificate, None) => {
                Refusal::WantsCertificate
            }
            (
                AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied,
                Some(identity),
            ) => Refusal::RefusesCertificate(format!("{} ({alert:?})", identity.cert.display())),
            _ => Refusal::Other(error.to_string()),
        },
        rustls::Error::InvalidMessage(_) => Refusal::NoTls,
        other => Refusal::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_cause_is_found_inside_an_io_error_and_named_with_its_setting() {
        let hub = Keys { section: "[Hub]", address: "[Hub] Url" };
        let tls = ClientTls::of(Path::new("/r"), "ca.pem", "c.pem", "k.pem").unwrap();
        let check = |error: rustls::Error, tls: &ClientTls, text: &str, next: &str| {
            let carried = io::Error::new(io::ErrorKind::InvalidData, error);
            let refusal = refusal(&carried, tls).unwrap();
            assert!(refusal.to_string().contains(text), "{refusal}");
            assert!(refusal.next_step(hub).contains(next), "{}", refusal.next_step(hub));
        };
        let none = ClientTls::default();
        check(CertificateError::UnknownIssuer.into(), &tls, "/r/ca.pem", "[Hub] CaFile");
        check(CertificateError::UnknownIssuer.into(), &none, "the system's", "[Hub] CaFile");
        check(CertificateError::NotValidForName.into(), &tls, "another name", "[Hub] Url");
        check(CertificateError::Expired.into(), &tls, "not valid", "renew");
        let alert = rustls::Error::AlertReceived;
        check(alert(AlertDescription::CertificateRequired), &none, "none is configured", "[Hub] CertFile");
        check(alert(AlertDescription::BadCertificate), &none, "none is configured", "[Hub] CertFile");
        check(alert(AlertDescription::UnknownCA), &tls, "/r/c.pem", "[Hub] CertFile");
        let flags = Keys { section: "--bundle", address: "--bundle" };
        assert!(Refusal::UnknownCa(String::new()).next_step(flags).contains("--bundle-ca"));
        assert!(Refusal::WantsCertificate.next_step(flags).contains("--bundle-cert and --bundle-key"));
        assert_eq!(super::refusal(&io::Error::other("no route"), &none), None);
    }

    #[test]
    fn an_alert_of_which_only_the_words_are_left_is_understood() {
        let none = ClientTls::default();
        let with = ClientTls::of(Path::new("/r"), "", "c.pem", "k.pem").unwrap();
        let words = "transport error: received fatal alert: BadCertificate";
        assert_eq!(refusal_in(words, &none), Some(Refusal::WantsCertificate));
        let refused = refusal_in(words, &with).unwrap().to_string();
        assert!(refused.contains("/r/c.pem") && refused.contains("BadCertificate"), "{refused}");
        let other = "received fatal alert: ProtocolVersion";
        assert_eq!(refusal_in(other, &with), Some(Refusal::Other(other.into())));
        assert_eq!(refusal_in("connection refused", &with), None);
    }
}
