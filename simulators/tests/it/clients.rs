//! The providers' official clients for Node.js, on the simulators: each says with its own eyes what it sees.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::support::{CLIENT_KEY, SECRET_KEY, SERVER_KEY, Stage};

/// How long the packages may take to install.
const INSTALL_MAX: Duration = Duration::from_secs(300);
/// How long a program may take.
const RUNS_MAX: Duration = Duration::from_secs(60);

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// The packages, installed beside what cargo compiled; the lock file says exactly which.
async fn packages() -> &'static Path {
    static INSTALLED: OnceCell<PathBuf> = OnceCell::const_new();
    let install = async || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("payment-clients");
        fs::create_dir_all(&folder).expect("a folder for packages");
        // Another run of the tests may be at it. The lock goes with the file.
        let lock = File::create(folder.join("lock")).expect("a lock");
        let taken = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock));
        let _lock = timeout(INSTALL_MAX, taken).await.expect("a lock in time").expect("no panic");
        let exactly = fs::read(programs().join("package-lock.json")).expect("what is pinned");
        let marker = folder.join("installed");
        if !fs::read(&marker).is_ok_and(|was| was == exactly) {
            for file in ["package.json", "package-lock.json"] {
                fs::copy(programs().join(file), folder.join(file)).expect("a copy");
            }
            let mut npm = Command::new("npm");
            npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]).current_dir(&folder);
            let output = timeout(INSTALL_MAX, npm.kill_on_drop(true).output()).await.expect("in time").expect("npm");
            assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
            fs::write(&marker, exactly).expect("a marker");
        }
        folder
    };
    INSTALLED.get_or_init(install).await
}

/// Runs a program with a question, and answers what it answered.
async fn run(program: &str, question: &Value) -> Value {
    let folder = packages().await;
    // A module finds its packages beside itself.
    fs::copy(programs().join(program), folder.join(program)).expect("a copy");
    let mut process = Command::new("node")
        .arg(folder.join(program))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node");
    let mut input = process.stdin.take().expect("its input");
    input.write_all(question.to_string().as_bytes()).await.expect("it listens");
    drop(input);
    let output = timeout(RUNS_MAX, process.wait_with_output()).await.expect("in time").expect("node");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {out}{err}");
    serde_json::from_str(out.lines().last().expect("an answer")).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}

#[tokio::test]
async fn midtrans_own_client_charges_asks_cancels_expires_captures_and_refunds() {
    let stage = Stage::start().await;
    let question = json!({ "base": stage.simulators.midtrans_url(), "serverKey": SERVER_KEY, "clientKey": CLIENT_KEY });
    let said = run("midtrans.mjs", &question).await;
    for (step, expected) in [
        ("charged", json!(["201", "pending"])),
        ("status", json!(["201", "pending"])),
        ("duplicate", json!("406")),
        ("nobody", json!("404")),
        ("noMoney", json!("400")),
        ("wrongKey", json!(401)),
        ("settled", json!(["200", "settlement"])),
        ("illegal", json!("412")),
        ("tooMuch", json!("414")),
        ("refunded", json!(["200", "partial_refund"])),
        ("refundedDirect", json!(["200", "refund"])),
        ("cancelled", json!(["200", "cancel"])),
        ("cancelledStatus", json!(["200", "cancel"])),
        ("expired", json!(["407", "expire"])),
        ("expiredStatus", json!(["407", "expire"])),
        ("authorized", json!(["200", "authorize"])),
        ("captured", json!(["200", "capture"])),
        ("approved", json!(["200", "capture"])),
        ("denied", json!(["200", "deny"])),
        ("b2b", json!(["200", 1])),
    ] {
        assert_eq!(said[step], expected, "{step}: {said}");
    }
}

#[tokio::test]
async fn midtrans_own_client_believes_notifications_by_asking_again() {
    let stage = Stage::start().await;
    stage.midtrans("POST /v2/charge", crate::support::qris("N-1", 48_500)).await;
    let pending = stage.told().await.remove(0);
    stage.does("forge", json!({ "id": "N-1", "status": "settlement" })).await;
    let forged = stage.told().await.remove(0);
    stage.does("pay", json!({ "id": "N-1" })).await;
    // What is true now is asked of the simulator, whatever each of them says.
    let question = |post: &crate::support::Post| json!({ "base": stage.simulators.midtrans_url(), "serverKey": SERVER_KEY, "clientKey": CLIENT_KEY, "notification": post.text });
    let settled = stage.told().await.remove(0);
    for post in [&pending, &forged, &settled] {
        let said = run("notification.mjs", &question(post)).await;
        assert_eq!(
            (&said["status"], &said["signed"], &said["asked"]),
            (&json!("settlement"), &json!(true), &json!(true)),
            "{said}"
        );
    }
    let mut forged = settled.clone();
    forged.text = forged.text.replace("48500.00", "48500.01");
    let said = run("notification.mjs", &question(&forged)).await;
    assert_eq!((&said["signed"], &said["asked"]), (&json!(false), &json!(true)), "{said}");
}

#[tokio::test]
async fn xendits_own_client_asks_pays_refunds_and_lists() {
    let stage = Stage::with(|options| options.speed = 3.0).await;
    let question = json!({ "base": stage.simulators.xendit_url(), "secretKey": SECRET_KEY });
    let said = run("xendit.mjs", &question).await;
    for (step, expected) in [
        ("made", json!(["PENDING", "QRIS", 48_500])),
        ("account", json!(["PENDING", "BNI"])),
        ("simulated", json!("PENDING")),
        ("paid", json!("SUCCEEDED")),
        ("found", json!(1)),
        ("refund", json!(["PENDING", 8_500])),
        ("refunded", json!("SUCCEEDED")),
        ("refunds", json!(1)),
        ("inProgress", json!([400, "REFUND_IN_PROGRESS"])),
        ("nobody", json!([404, "DATA_NOT_FOUND"])),
        ("wrongKey", json!([401, "INVALID_API_KEY"])),
        ("moved", json!(["PAYMENT", 48_500])),
        ("callback", json!(["SUCCEEDED", 48_500, "QR_CODE"])),
    ] {
        assert_eq!(said[step], expected, "{step}: {said}");
    }
    assert!(said["qr"].as_str().unwrap().contains("540548500"));
}

#[tokio::test]
async fn a_camera_reads_the_pictures() {
    let stage = Stage::start().await;
    let charged = stage.midtrans("POST /v2/charge", crate::support::qris("P-1", 48_500)).await;
    for action in charged.body["actions"].as_array().unwrap() {
        let picture = stage.send("GET", action["url"].as_str().unwrap(), &[], String::new()).await.unwrap();
        let png = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &picture.bytes);
        let said = run("camera.mjs", &json!({ "png": png })).await;
        assert_eq!(said["text"], charged.body["qr_string"], "{}", action["name"]);
        assert!(said["width"].as_u64().unwrap() > 300);
    }
}
