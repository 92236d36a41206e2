//! The ports of a miner or an agent: bound together at the start, served together until the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::certificates::Certificates;
use super::listen::{bind, serve};
use crate::configuration::{ApiSection, ServeAddresses};
use crate::exit::{ExitCode, ExitError};
use crate::shutdown;
use crate::tls::ServerTls;
use crate::token::ApiAddress;

/// Requests that are being answered at the end get so long.
const END_WITHIN: Duration = Duration::from_secs(3);

/// What each port serves.
#[derive(Debug, Clone)]
pub struct Services {
    /// `[API] ListenAddress` and `ServePort`: JSON-RPC and `/healthz`.
    pub api: Router,
    /// `ServePort+1`: the web page and `/metrics`.
    pub web: Router,
    /// `ServePort+100`: bulk data.
    pub bulk: Router,
}

/// The ports, bound.
#[derive(Debug)]
pub struct Ports {
    /// Where the command line, and on an agent the workers, call.
    api: SocketAddr,
    /// The address others were told.
    advertised: SocketAddr,
    apis: Vec<TcpListener>,
    web: TcpListener,
    bulk: TcpListener,
    /// What all of them show; none: they speak in the clear.
    certificates: Option<Arc<Certificates>>,
}

impl Ports {
    /// Binds all of them, to be served with `tls`. `[API] ListenAddress` may be where `ServePort` is: then
    /// they are one.
    ///
    /// # Errors
    /// When a file of `tls` cannot be used, or a port is taken or on no address of this machine; names it,
    /// and the key to change.
    pub async fn bind(
        section: &ApiSection,
        addresses: &ServeAddresses,
        tls: Option<ServerTls>,
    ) -> Result<Self, ExitError> {
        let certificates = tls.map(Certificates::read).transpose()?.map(Arc::new);
        let wanted = section
            .listen_address
            .socket_addr()
            .map_err(|error| ExitError::new(ExitCode::BadInput, format!("[API] ListenAddress: {error}")))?;
        let first = bind(wanted, "[API] ListenAddress").await?;
        let api = first
            .local_addr()
            .map_err(|error| ExitError::new(ExitCode::Failure, "the API has no address").because(error))?;
        let mut apis = vec![first];
        let advertised = addresses.api;
        let covered = api == advertised || (api.ip().is_unspecified() && api.port() == advertised.port());
        if !covered {
            apis.push(bind(advertised, "[SealAgent] ServeIP or ServePort").await?);
        }
        let web = bind(addresses.web, "[SealAgent] ServePort (this is the one above it)").await?;
        let bulk = bind(addresses.bulk, "[SealAgent] ServePort (this is the one 100 above it)").await?;
        Ok(Self { api, advertised, apis, web, bulk, certificates })
    }

    /// What others are told: `host:port`, with `https://` in front where that is spoken.
    pub fn advertised(&self) -> String {
        let scheme = if self.certificates.is_some() { "https://" } else { "" };
        format!("{scheme}{}", self.advertised)
    }

    /// The API's address, for the `api` file.
    pub fn api_address(&self) -> ApiAddress {
        reachable(self.api, self.advertised, self.certificates.is_some())
    }

    /// Serves all of them until `stop`. What is being answered then is waited for a moment.
    ///
    /// # Errors
    /// When one of them cannot be served any more; `stop` is then cancelled.
    pub fn serve(
        self,
        services: Services,
        stop: &CancellationToken,
    ) -> impl Future<Output = Result<(), ExitError>> + use<> {
        let mut serving = JoinSet::new();
        let apis = self.apis.into_iter().map(|listener| (listener, services.api.clone()));
        for (listener, router) in apis.chain([(self.web, services.web), (self.bulk, services.bulk)]) {
            serving.spawn(serve(listener, self.certificates.clone(), router, stop.clone()));
        }
        let stop = stop.clone();
        async move {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => None,
                ended = serving.join_next() => ended,
            };
            stop.cancel();
            let rest = async { while serving.join_next().await.is_some() {} };
            shutdown::drain("answering requests", END_WITHIN, rest).await;
            match first {
                None | Some(Ok(Ok(()))) => Ok(()),
                Some(Ok(Err(error))) => {
                    Err(ExitError::new(ExitCode::Failure, "a port cannot be served any more").because(error))
                }
                Some(Err(error)) => {
                    Err(ExitError::new(ExitCode::Failure, "serving a port broke").because(error))
                }
            }
        }
    }
}

/// An address that leads to a listener at `listening`, for others than this host where there is one.
fn reachable(listening: SocketAddr, advertised: SocketAddr, tls: bool) -> ApiAddress {
    let ip = if listening.ip().is_unspecified() { advertised.ip() } else { listening.ip() };
    ApiAddress::of_socket(SocketAddr::new(ip, listening.port()), tls)
}

/// The address to give to others: the API's own, or the advertised one where the API listens on
/// this host alone.
///
/// # Errors
/// When `[API] ListenAddress` is no address to listen on.
pub fn address_for_others(section: &ApiSection, addresses: &ServeAddresses) -> Result<ApiAddress, ExitError> {
    let api = section
        .listen_address
        .socket_addr()
        .map_err(|error| ExitError::new(ExitCode::BadInput, format!("[API] ListenAddress: {error}")))?;
    if api.ip().is_loopback() && !addresses.api.ip().is_loopback() {
        return Ok(ApiAddress::of_socket(addresses.api, section.is_tls()));
    }
    Ok(reachable(api, addresses.api, section.is_tls()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::SealAgentSection;
    use crate::exit::render;

    fn addresses(ip: &str, port: u16) -> ServeAddresses {
        SealAgentSection { etcd_addrs: vec![], serve_ip: ip.parse().unwrap(), serve_port: port }
            .serve_addresses(None)
            .unwrap()
    }

    fn section(listen: &str) -> ApiSection {
        ApiSection::plain(listen.parse().unwrap())
    }

    #[test]
    fn others_are_told_an_address_that_leads_here() {
        let check = |listen: &str, ip: &str, told: &str| {
            let address = address_for_others(&section(listen), &addresses(ip, 40005)).unwrap();
            assert_eq!(address.to_string(), told, "{listen} and {ip}");
        };
        check("/ip4/10.0.0.5/tcp/23466/http", "10.0.0.5", "/ip4/10.0.0.5/tcp/23466/http");
        check("/ip4/0.0.0.0/tcp/23466/http", "10.0.0.5", "/ip4/10.0.0.5/tcp/23466/http");
        check("/ip4/127.0.0.1/tcp/23466/http", "10.0.0.5", "/ip4/10.0.0.5/tcp/40005/http");
        check("/ip4/127.0.0.1/tcp/23466/http", "127.0.0.1", "/ip4/127.0.0.1/tcp/23466/http");
    }

    #[test]
    fn with_a_certificate_others_are_told_https() {
        let secure = ApiSection { cert_file: "c.pem".into(), ..section("/ip4/10.0.0.5/tcp/23466/http") };
        let address = address_for_others(&secure, &addresses("10.0.0.5", 40005)).unwrap();
        assert_eq!(address.to_string(), "/ip4/10.0.0.5/tcp/23466/https");
    }

    fn all_free(base: u16) -> bool {
        [0, 1, 100].iter().all(|above| std::net::TcpListener::bind(("127.0.0.2", base + above)).is_ok())
    }

    #[test]
    fn each_port_that_is_taken_ends_the_start_and_is_named_with_its_key() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let base = (20_000..30_000).find(|base| all_free(*base)).expect("three ports are free");
            let listen = section("/ip4/127.0.0.2/tcp/0/http");
            for (above, key) in [(0, "ServeIP or ServePort"), (1, "one above it"), (100, "100 above it")] {
                let _holder = TcpListener::bind(("127.0.0.2", base + above)).await.unwrap();
                let error = Ports::bind(&listen, &addresses("127.0.0.2", base), None).await.unwrap_err();
                let (code, text) = render(&error);
                assert_eq!(code, ExitCode::PortInUse, "{text}");
                assert!(text.contains(key) && text.contains(&format!("{}", base + above)), "{text}");
            }
        });
    }
}
