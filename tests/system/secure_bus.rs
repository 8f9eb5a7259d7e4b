//! The bus where it leaves the machine: TLS with certificates on both sides, user and password, credentials files. Nodes
//! that have what is asked for call each other, and one that has not stays apart.
//!
//! The server is the real one. Certificates, keys and tokens are made here and live as long as the test.

use crate::calls::call;
use crate::faults::{nodes, note, reachable, told};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cleave_bus::nats::Link;
use cleave_bus::route::Route;
use cleave_host::host::Host;
use cleave_tests::delivery::Told;
use cleave_tests::nats::{NatsServer, Settings};
use cleave_tests::{Application, PATIENCE};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::block_in_place;

const LOGIN: (&str, &str) = ("ada", "secret");
/// How often one that is refused tries before it is taken that it never gets in.
const TRIES: usize = 4;

/// A folder with `NAME.pem` and `NAME.key` of the server and of the nodes, and `ca.pem`, which has signed both.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let certificates = Self(tempfile::tempdir().unwrap());
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "who signs for the test");
        certificates.write("ca.pem", &ca.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(ca, key);
        for name in ["server", "nodes"] {
            let key = rcgen::KeyPair::generate().unwrap();
            let signed = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
            certificates.write(&format!("{name}.pem"), &signed.signed_by(&key, &issuer).unwrap().pem());
            certificates.write(&format!("{name}.key"), &key.serialize_pem());
        }
        certificates
    }

    fn write(&self, name: &str, pem: &str) {
        std::fs::write(self.path(name), pem).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A server with TLS that takes only clients with a certificate and the login.
    fn server(&self) -> NatsServer {
        let lines = format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
            self.path("server.pem"),
            self.path("server.key"),
            self.path("ca.pem")
        );
        NatsServer::start_with(Settings { login: Some(LOGIN), lines: &lines, ..Settings::default() })
    }

    /// The key of `[bus]` that trusts the server.
    fn trust(&self) -> String {
        format!("ca = {:?}\n", self.path("ca.pem"))
    }

    /// The keys of `[bus]` that show who the nodes are.
    fn identity(&self) -> String {
        format!("certificate = {:?}\nkey = {:?}\n", self.path("nodes.pem"), self.path("nodes.key"))
    }
}

/// The server's URL for who has this login.
fn tls(server: &NatsServer, (user, password): (&str, &str)) -> String {
    format!("tls://{user}:{password}@{}", server.address())
}

/// Runs a node as a value in this process. It may not be connected yet.
async fn start(application: &Application, node: &str) -> Host {
    match Host::start(application.load_for(Some(node))).await {
        Ok(host) => host,
        Err(problems) => panic!("the node did not start: {:?}", miette::Report::new(problems)),
    }
}

/// Two nodes call each other, and by the bus.
async fn call_each_other(application: &Application) {
    let (back, front) = (start(application, "back").await, start(application, "front").await);
    front.ready().await.unwrap();
    reachable(&front).await;
    assert_eq!(note(&front, "note", "over the bus", 0).await, Ok(()));
    let began = Instant::now();
    let ping = "test:victim/ping.ping";
    while call(&back, ping, &[json!(1)]).await != Ok(json!({"ok": 2})) {
        assert!(began.elapsed() < PATIENCE, "{:?}", call(&back, ping, &[json!(1)]).await);
    }
    for (host, contract) in [(&front, "test:ledger/ledger@0.1"), (&back, "test:victim/ping@0.1")] {
        let (route, calls) = host.traffic()[contract];
        assert!(route == Route::Remote && calls > 0, "{contract}: {route:?} {calls}");
        assert_eq!(*host.bus().unwrap().link().borrow(), Link::Up);
    }
    assert!(front.drain().await && back.drain().await);
}

/// A node never gets connected: at every try its link says `why`, and the server's log why it `refuses`.
async fn stays_apart(application: &Application, why: &str, server: &NatsServer, refuses: &str) {
    let host = start(application, "front").await;
    let link = host.bus().unwrap().link();
    let (began, mut tries) = (Instant::now(), 0);
    while tries < TRIES {
        assert!(began.elapsed() < PATIENCE, "{refuses:?} is not in the log:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
        tries = server.log().matches(refuses).count();
        assert!(matches!(&*link.borrow(), Link::Down(_)), "{:?}", *link.borrow());
    }
    assert!(
        matches!(&*link.borrow(), Link::Down(said) if said.contains(why)),
        "{why:?}: {:?}",
        *link.borrow()
    );
    let outcome = note(&host, "note", "never", 0).await;
    assert_eq!(told(&outcome), Told::Unavailable, "{outcome:?}");
    assert!(host.drain().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_call_each_other_over_tls_with_certificates_and_a_password() {
    let certificates = Certificates::new();
    let server = block_in_place(|| certificates.server());
    let bus = certificates.trust() + &certificates.identity();
    call_each_other(&nodes(&tls(&server, LOGIN), &bus, "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_does_not_trust_the_server_stays_apart() {
    let certificates = Certificates::new();
    let server = block_in_place(|| certificates.server());
    let application = nodes(&tls(&server, LOGIN), &certificates.identity(), "");
    stays_apart(&application, "UnknownIssuer", &server, "certificate authority").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_shows_no_certificate_stays_apart() {
    let certificates = Certificates::new();
    let server = block_in_place(|| certificates.server());
    let application = nodes(&tls(&server, LOGIN), &certificates.trust(), "");
    stays_apart(&application, "IO error", &server, "client didn't provide a certificate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_with_a_wrong_password_stays_apart() {
    let certificates = Certificates::new();
    let server = block_in_place(|| certificates.server());
    let bus = certificates.trust() + &certificates.identity();
    let application = nodes(&tls(&server, ("ada", "wrong")), &bus, "");
    stays_apart(&application, "authorization violation", &server, "authentication error").await;
}

/// A token of NATS, signed by who answers for its subject.
fn token(issuer: &KeyPair, subject: &KeyPair, nats: &Json) -> String {
    let part = |json: Json| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let subject = subject.public_key();
    let claims = json!({"iss": issuer.public_key(), "sub": subject, "name": subject, "iat": 0, "nats": nats});
    let signed = [part(json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(claims)].join(".");
    let signature = BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// A server whose users are those of an account, and the account's key.
fn server_of_an_account() -> (NatsServer, KeyPair) {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let of_operator = token(&operator, &operator, &json!({"type": "operator", "version": 2}));
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "wildcards": true,
    });
    let of_account = token(&operator, &account, &json!({"type": "account", "version": 2, "limits": limits}));
    let lines = format!(
        "operator: {of_operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account} }}\n",
        account.public_key()
    );
    // JetStream would ask for a system account.
    let settings = Settings { jetstream: None, lines: &lines, ..Settings::default() };
    (NatsServer::start_with(settings), account)
}

/// Writes the credentials of a new user of an account. Gives the key of `[bus]` that names them.
fn credentials(folder: &Path, account: &KeyPair) -> String {
    let user = KeyPair::new_user();
    let limits = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
    let token = token(account, &user, &limits);
    let (token, seed) = (("NATS USER JWT", token), ("USER NKEY SEED", user.seed().unwrap()));
    let block =
        |(name, text): (&str, String)| format!("-----BEGIN {name}-----\n{text}\n------END {name}------\n\n");
    let path = folder.join("user.creds");
    std::fs::write(&path, block(token) + &block(seed)).unwrap();
    format!("credentials = {path:?}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_call_each_other_with_a_credentials_file() {
    let (server, account) = block_in_place(server_of_an_account);
    let folder = tempfile::tempdir().unwrap();
    call_each_other(&nodes(&server.url(), &credentials(folder.path(), &account), "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_with_the_credentials_of_another_account_stays_apart() {
    let (server, _account) = block_in_place(server_of_an_account);
    let folder = tempfile::tempdir().unwrap();
    let application = nodes(&server.url(), &credentials(folder.path(), &KeyPair::new_account()), "");
    stays_apart(&application, "authorization violation", &server, "authentication error").await;
}
