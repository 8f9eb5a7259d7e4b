//! How soon the shop answers, and the memory that a process and an instance take.

use crate::http::{Client, seed};
use crate::shop::{self, Process};
use crate::{median, row, table};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

const STARTS: usize = 10;
const INSTANCES: usize = 128;
/// How long the calls that hold the instances sleep: long enough for all to be asleep at once.
const SLEEP: Duration = Duration::from_secs(2);

pub(crate) fn run() {
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    table("Start and memory", &["what", "measured", "aim"]);
    let (first, resident) = starts(&client);
    row([
        format!("from spawn to the first 200, warm cache, median of {STARTS}"),
        format!("**{} ms**", first.as_millis()),
        "≤ 150 ms".to_owned(),
    ]);
    row([
        "resident when it has answered once".to_owned(),
        format!("{:.1} MiB", resident as f64 / 1024.0),
        String::new(),
    ]);
    let instance = client.block_on(instances());
    row([
        format!("resident for each live instance, of {INSTANCES}"),
        format!("{instance} KiB"),
        String::new(),
    ]);
}

/// The medians of the time from spawn to the first product, and of the memory then.
fn starts(client: &tokio::runtime::Runtime) -> (Duration, u64) {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = shop::config(folder.path(), port, "");
    // Fills the cache and the database.
    let shop = Process::start(&mut shop::up(&config));
    client.block_on(seed(&shop.address));
    stop(shop);
    let starts = (0..STARTS).map(|_| {
        let began = Instant::now();
        let waiting = std::thread::spawn(move || first_answer(port));
        let shop = Process::start(&mut shop::up(&config));
        let first = waiting.join().unwrap() - began;
        let resident = shop.resident();
        stop(shop);
        (first, resident)
    });
    let (first, resident) = starts.unzip::<_, _, Vec<_>, Vec<_>>();
    (median(first), median(resident))
}

/// When somebody at this port has answered.
pub(crate) fn first_answer(port: u16) -> Instant {
    use std::io::{Read, Write};
    loop {
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
            let mut head = [0; 12];
            stream.write_all(b"GET /api/products/MUG-0007 HTTP/1.1\r\nhost: bench\r\n\r\n").unwrap();
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
            return Instant::now();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Asks a process to stop, so that the next one finds all in order.
pub(crate) fn stop(mut process: Process) {
    let asked = Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
    assert!(asked.success() && process.ended());
}

/// KiB that an instance takes while it lives: what is resident while so many calls sleep, less what was before.
async fn instances() -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let hostile = format!(
        "[modules.hostile]\ncomponent = \"{}\"\nconcurrency = {INSTANCES}\ngrants = [\"sql\"]\n",
        shop::built("hostile").display()
    );
    let config = shop::config(folder.path(), 0, &hostile);
    // Why without the WIT: the guest's contract is not in the shop's.
    let routed = std::fs::read_to_string(&config)
        .unwrap()
        .replace("\nwit = ", "\n# wit = ")
        .replace("[http.routes]", "[http.routes]\n\"GET /sleep/{ms}\" = \"test:hostile/acts.sleep\"");
    std::fs::write(&config, routed).unwrap();
    let shop = Process::start(&mut shop::up(&config));
    // The connections and their buffers are there before.
    let mut clients = Vec::new();
    for _ in 0..INSTANCES {
        let mut client = Client::connect(&shop.address).await;
        client.get("/livez").await;
        clients.push(client);
    }
    let before = shop.resident();
    let calls: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move { client.get(&format!("/sleep/{}", SLEEP.as_millis())).await.len() })
        })
        .collect();
    tokio::time::sleep(SLEEP / 2).await;
    let during = shop.resident();
    for call in calls {
        call.await.unwrap();
    }
    (during - before) / INSTANCES as u64
}
