//! HTTP as a stranger sends it: whatever arrives has a clear answer, and the next request is served.

use cleave_tests::{ARRANGEMENTS, Answer, Application, PATIENCE, Process, request};
use std::io::{Read, Write};
use std::net::TcpStream;

const MUG: &str = r#"{"name":"Mug","price_cents":1250,"description":""}"#;

fn shop() -> (Application, Process) {
    let application = Application::shop(ARRANGEMENTS[0]);
    let process = application.up();
    process.put("/api/products/mug", MUG).expect(200);
    (application, process)
}

/// Sends bytes as they are and gives all that comes back until the server closes the connection.
fn raw(shop: &Process, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(shop.address.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn put_with(shop: &Process, headers: &str, body: &[u8]) -> String {
    let mut bytes = format!(
        "PUT /api/products/mug HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend(body);
    raw(shop, &bytes)
}

#[test]
fn body_that_does_not_fit_is_told_by_its_place() {
    let (_application, shop) = shop();
    let deep = format!("{{\"name\":{}", "[".repeat(100_000));
    for (body, detail) in [
        ("", "body"),
        ("{", "EOF"),
        ("[]", "an object with `name`"),
        ("null", "an object with `name`"),
        (r#"{"name":"Mug","price_cents":1250,"description":"","colour":"red"}"#, "unknown field `colour`"),
        (r#"{"name":"Mug","price_cents":1250}"#, "field `description` is missing"),
        (r#"{"name":"Mug","name":"Cup","price_cents":1250,"description":""}"#, "`name` is given twice"),
        (r#"{"name":7,"price_cents":1250,"description":""}"#, "name: invalid type: integer `7`"),
        (r#"{"name":"Mug","price_cents":1.0,"description":""}"#, "price_cents: invalid type: floating point"),
        (r#"{"name":"Mug","price_cents":-1,"description":""}"#, "price_cents: invalid value: integer `-1`"),
        (r#"{"name":"Mug","price_cents":18446744073709551616,"description":""}"#, "price_cents"),
        (r#"{"name":"Mug","price_cents":1e400,"description":""}"#, "price_cents"),
        (r#"{"name":"Mug","price_cents":NaN,"description":""}"#, "expected value"),
        (r#"{"name":"Mug","price_cents":1250,"description":""} x"#, "trailing characters"),
        (deep.as_str(), "name"),
    ] {
        shop.put("/api/products/mug", body).expect_problem(400, detail);
    }
    assert_eq!(shop.get("/api/products/mug").expect(200)["name"], "Mug");
}

#[test]
fn nested_value_is_told_by_its_place() {
    let (_application, shop) = shop();
    shop.post(
        "/api/orders",
        r#"{"user_id":"ada","lines":[{"sku":"mug","quantity":1},{"sku":"mug","quantity":4294967296}]}"#,
    )
    .expect_problem(400, "lines[1].quantity");
}

#[test]
fn body_that_is_not_utf8_is_refused() {
    let (_application, shop) = shop();
    let answer = request(
        &format!("{}/api/products/mug", shop.address),
        "PUT",
        Some(b"{\"name\":\"\xff\",\"price_cents\":1,\"description\":\"\"}"),
    );
    answer.expect_problem(400, "");
}

#[test]
fn what_the_module_refuses_is_unprocessable() {
    let (_application, shop) = shop();
    let answer = shop.put("/api/products/mug", r#"{"name":"","price_cents":1250,"description":""}"#);
    answer.expect_problem(422, "name");
    assert_eq!(answer.json()["case"], "invalid");
}

#[test]
fn body_over_the_limit_is_refused() {
    let application = Application::shop(ARRANGEMENTS[0]);
    let config = std::fs::read_to_string(application.config()).unwrap();
    application.write(&config.replace("[http.routes]", "body_max = \"1KiB\"\n[http.routes]"));
    let shop = application.up();
    let long = MUG.replace("Mug", &"M".repeat(2_000));
    assert!(
        put_with(&shop, "content-type: application/json\r\n", long.as_bytes()).starts_with("HTTP/1.1 413")
    );
    // The same without a length up front.
    let chunked = format!(
        "PUT /api/products/mug HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        long.len()
    );
    assert!(raw(&shop, chunked.as_bytes()).starts_with("HTTP/1.1 413"));
    shop.put("/api/products/mug", MUG).expect(200);
}

#[test]
fn body_over_the_payload_limit_is_refused() {
    let application = Application::shop(ARRANGEMENTS[0]);
    let config = std::fs::read_to_string(application.config()).unwrap();
    application.write(&config.replace("[calls]", "[calls]\npayload_max = \"1KiB\""));
    let shop = application.up();
    let long = MUG.replace("Mug", &"M".repeat(2_000));
    shop.put("/api/products/mug", &long).expect_problem(413, "1024 bytes");
}

#[test]
fn body_of_another_kind_is_refused() {
    let (_application, shop) = shop();
    for kind in ["", "content-type: text/plain\r\n", "content-type: application/json; charset=latin1\r\n"] {
        let answer = put_with(&shop, kind, MUG.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 415"), "{kind}: {answer}");
    }
    let answer = put_with(&shop, "content-type: application/json; charset=utf-8\r\n", MUG.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn unknown_paths_and_methods_are_told_apart() {
    let (_application, shop) = shop();
    shop.get("/api/nothing").expect_problem(404, "");
    shop.get("/api/products/mug/more").expect_problem(404, "");
    let answer = shop.post("/api/products/mug", "{}");
    answer.expect_problem(405, "");
    assert_eq!(answer.header("allow"), "GET, PUT, HEAD");
}

#[test]
fn query_is_read_by_its_types() {
    let (_application, shop) = shop();
    assert_eq!(shop.get("/api/products?limit=1").expect(200).as_array().unwrap().len(), 1);
    assert_eq!(shop.get("/api/products?after=mug").expect(200).as_array().unwrap().len(), 0);
    for (query, detail) in [
        ("limit=x", "limit"),
        ("limit=-1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limti=1", "limti"),
        ("after=%ff", "after"),
    ] {
        shop.get(&format!("/api/products?{query}")).expect_problem(400, detail);
    }
    shop.get("/api/products?limit=0").expect_problem(422, "limit");
}

#[test]
fn path_is_decoded_once() {
    let (_application, shop) = shop();
    shop.put("/api/products/a%2eb", MUG).expect(200);
    assert_eq!(shop.get("/api/products/a.b").expect(200)["sku"], "a.b");
    shop.get("/api/products/%ff").expect_problem(400, "sku");
    shop.get("/api/products/a%252eb").expect_problem(422, "sku");
}

#[test]
fn head_answers_as_get_without_the_body() {
    let (_application, shop) = shop();
    let answer = request(&format!("{}/api/products/mug", shop.address), "HEAD", None);
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_ne!(answer.header("content-length"), "");
}

#[test]
fn request_keeps_the_trace_it_came_with() {
    let (_application, shop) = shop();
    let answer = raw(
        &shop,
        b"GET /api/products/mug HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
          traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
    );
    assert!(answer.contains("x-request-id: 0af7651916cd43dd8448eb211c80319c"), "{answer}");
}

#[test]
fn probes_answer() {
    let (_application, shop) = shop();
    for probe in ["/livez", "/readyz"] {
        assert_eq!(shop.get(probe).status, 200);
    }
}

#[test]
fn garbage_on_the_connection_harms_nobody() {
    let (_application, shop) = shop();
    let mut seed = 7u64;
    for length in [1, 10, 100, 1_000, 100_000] {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 56) as u8
            })
            .chain(*b"\r\n\r\n")
            .collect();
        raw(&shop, &bytes);
    }
    let endless = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(1_000_000));
    assert!(!raw(&shop, endless.as_bytes()).starts_with("HTTP/1.1 2"));
    shop.get("/api/products/mug").expect(200);
}

#[test]
fn slow_heads_are_closed() {
    let application = Application::shop(ARRANGEMENTS[0]);
    let config = std::fs::read_to_string(application.config()).unwrap();
    application.write(&config.replace("[http.routes]", "header_timeout = \"200ms\"\n[http.routes]"));
    let shop = application.up();
    // Neither a head that never ends nor a body that never comes keeps its connection.
    raw(&shop, b"GET /api/products HTTP/1.1\r\nhost: x\r\n");
    let answer = raw(
        &shop,
        b"PUT /api/products/mug HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{",
    );
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[test]
fn connections_over_the_limit_wait() {
    let application = Application::shop(ARRANGEMENTS[0]);
    let config = std::fs::read_to_string(application.config()).unwrap();
    application.write(
        &config.replace("[http.routes]", "connections_max = 2\nheader_timeout = \"300ms\"\n[http.routes]"),
    );
    let shop = application.up();
    let idle: Vec<_> =
        (0..2).map(|_| TcpStream::connect(shop.address.trim_start_matches("http://")).unwrap()).collect();
    // Both places are taken by clients that say nothing; this one is served when they are closed for it.
    shop.get("/livez").json_or_text();
    drop(idle);
}

trait JsonOrText {
    fn json_or_text(self);
}

impl JsonOrText for Answer {
    fn json_or_text(self) {
        assert_eq!(self.status, 200, "{self:?}");
    }
}

#[test]
fn failed_calls_are_answered_in_fixed_words() {
    let zoo = crate::calls::zoo(ARRANGEMENTS[0], "", "deadline = \"100ms\"\nconcurrency = 1\nqueue = 0");
    let config = std::fs::read_to_string(zoo.config()).unwrap();
    zoo.write(&format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[http.routes]\n\"POST /spin\" = \"test:hostile/acts.spin\"\n\
         \"POST /trap\" = \"test:hostile/acts.trap\"\n\"POST /sleep/{{ms}}\" = \"test:hostile/acts.sleep\"\n{config}"
    ));
    let mut shop = zoo.up();
    for path in ["/spin", "/trap"] {
        let answer = request(&format!("{}{path}", shop.address), "POST", None);
        let problem = answer.expect(504);
        assert!(!answer.body.contains("unreachable") && !answer.body.contains("hostile"), "{answer:?}");
        // The log has what the client is not told, under the id that the client has.
        shop.await_log(problem["request_id"].as_str().unwrap());
    }
    std::thread::scope(|scope| {
        // Clients at once for one place: who finds it taken is told to come back.
        let clients: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| request(&format!("{}/sleep/90", shop.address), "POST", None)))
            .collect();
        let answers: Vec<_> = clients.into_iter().map(|c| c.join().unwrap()).collect();
        let refused: Vec<_> = answers.iter().filter(|a| a.status == 503).collect();
        assert!(!refused.is_empty(), "{answers:?}");
        assert!(refused.iter().all(|a| a.header("retry-after") == "1"));
    });
}
