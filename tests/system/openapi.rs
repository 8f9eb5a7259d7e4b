//! The OpenAPI document: what runs is what it describes, with the words of the application's WIT.

use cleave_tests::{ARRANGEMENTS, Application, cleave, component, stderr, stdout};
use serde_json::Value as Json;

/// An application of one module with a function of this type, and a folder of WIT with another.
fn greeter(exported: &str, written: &str) -> Application {
    let application = Application::new(
        r#"
        [application]
        name = "Greetings"
        version = "2.1"
        wit = "wit"
        [http]
        listen = "127.0.0.1:0"
        [http.routes]
        "GET /greetings/{name}" = { call = "a:greeter/greetings.greet", errors = { error = 422 } }
        [modules.greeter]
        component = "greeter.wasm"
        "#,
    );
    let wit = |docs: &str, ty: &str| {
        format!("package a:greeter@1.0.0;\ninterface greetings {{\n/// {docs}\ngreet: {ty};\n}}")
    };
    let folder = application.folder.path();
    let world = format!("{}\nworld w {{ export greetings; }}", wit("", exported));
    std::fs::write(folder.join("greeter.wasm"), component::from_wit(&world)).unwrap();
    std::fs::create_dir_all(folder.join("wit/greeter")).unwrap();
    std::fs::write(folder.join("wit/greeter/greeter.wit"), wit("Greets somebody. Gently.", written)).unwrap();
    application
}

const GREET: &str = "func(name: string) -> result<string, string>";

#[test]
fn document_is_served_and_printed() {
    let application = Application::shop(ARRANGEMENTS[0]);
    let shop = application.up();
    let served = shop.get("/openapi.json").expect(200);
    let printed: Json = serde_json::from_str(&stdout(&application.run("openapi", &[]))).unwrap();
    assert_eq!(served, printed);
    assert_eq!(served["openapi"], "3.1.1");
    let routes = application.load().http.routes.len();
    let operations: usize =
        served["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len()).sum();
    assert_eq!(operations, routes);
    shop.post("/openapi.json", "{}").expect_problem(405, "other methods");
}

#[test]
fn document_can_be_left_out() {
    let application = Application::shop(ARRANGEMENTS[0]);
    let config = std::fs::read_to_string(application.config()).unwrap();
    application.write(&config.replacen("[http]", "[http]\nopenapi = false", 1));
    application.up().get("/openapi.json").expect_problem(404, "no route");
}

#[test]
fn words_of_the_wit_are_in_the_document() {
    let output = greeter(GREET, GREET).run("openapi", &[]);
    let document: Json = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(document["info"], serde_json::json!({"title": "Greetings", "version": "2.1"}));
    let operation = &document["paths"]["/greetings/{name}"]["get"];
    assert_eq!(operation["summary"], "Greets somebody");
    assert_eq!(operation["description"], "Greets somebody. Gently.");
}

#[test]
fn contract_that_differs_from_the_wit_is_refused() {
    let other = "func(name: string, twice: bool) -> result<string, string>";
    for (application, expected) in [
        (greeter(other, GREET), "`a:greeter/greetings@1.0.0.greet` is `func(name: string) -> "),
        (greeter(GREET, "func(name: strin)"), "the WIT does not fit together"),
    ] {
        for verb in ["check", "up"] {
            let output = application.run(verb, &[]);
            let said = stderr(&output).split_whitespace().collect::<Vec<_>>().join(" ").replace(" │ ", " ");
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(expected) && said.contains("cleave.toml:5"), "{said}");
        }
    }
    let application = greeter(GREET, GREET);
    let wit = application.folder.path().join("wit/greeter/greeter.wit");
    std::fs::write(&wit, "package a:other; interface greetings {}").unwrap();
    let said = stderr(&application.run("check", &[]));
    assert!(said.contains("is not in the WIT folder"), "{said}");
    std::fs::remove_dir_all(application.folder.path().join("wit")).unwrap();
    let said = stderr(&application.run("up", &[]));
    assert!(said.contains("does not exist"), "{said}");
}

#[test]
fn host_wit_is_written_for_authors() {
    let folder = tempfile::tempdir().unwrap();
    let deps = folder.path().join("wit/deps");
    let output = cleave().arg("wit").arg(&deps).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let files: Vec<_> = stdout(&output).lines().map(std::path::PathBuf::from).collect();
    assert!(files.contains(&deps.join("cleave-sql/sql.wit")), "{files:?}");
    assert!(files.iter().all(|file| file.is_file()));
    let output = cleave().arg("wit").arg("/proc/nothing").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("help:"));
}
