//! A receiver behind TLS, with a certificate that nobody knows but who is told so.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio::process::Command;

use super::services::{dir, unique};

/// How long one of its connections may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// An authority of the test's own, and what it signed for this machine.
pub struct Authority {
    /// What to trust it by.
    pub certificate: PathBuf,
    own: PathBuf,
}

impl Authority {
    pub async fn make() -> Self {
        // A name of its own: another of the same name would be taken for it, and its signature for a bad one.
        let name = unique("authority");
        let own = dir("authority").join(&name);
        std::fs::create_dir_all(&own).expect("a folder");
        std::fs::write(own.join("names"), "subjectAltName=IP:127.0.0.1").expect("a file");
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let made = format!("-x509 -days 2 -subj /CN={name} -keyout ca.key -out ca.pem");
        openssl(&own, ["req"].into_iter().chain(key).chain(made.split(' '))).await;
        let asked = "-subj /CN=receiver -keyout receiver.key -out receiver.csr".split(' ');
        openssl(&own, ["req"].into_iter().chain(key).chain(asked)).await;
        let signed = "x509 -req -days 2 -in receiver.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out receiver.pem";
        openssl(&own, signed.split(' ')).await;
        Self { certificate: own.join("ca.pem"), own }
    }

    /// Starts a receiver that answers everything with 200. It ends with the test run.
    pub fn receiver(&self) -> SocketAddr {
        let certificate = CertificateDer::from_pem_file(self.own.join("receiver.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(self.own.join("receiver.key")).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        let config = Arc::new(config.expect("a certificate with its key"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever does not trust it hangs up.
                let _ = answer(stream, config.clone());
            }
        });
        address
    }
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let (mut asked, mut part) = (Vec::new(), [0; 4096]);
    // A post of ours has a body, whose last byte is a brace.
    while !asked.ends_with(b"}") {
        match stream.read(&mut part)? {
            0 => return Ok(()),
            read => asked.extend_from_slice(&part[..read]),
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nthanks")?;
    stream.conn.send_close_notify();
    stream.flush()
}

async fn openssl<'a>(folder: &Path, arguments: impl IntoIterator<Item = &'a str>) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().await.expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
