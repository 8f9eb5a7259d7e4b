//! Files that are served as they are, beside the routes.

use cleave_tests::{ARRANGEMENTS, Application, stderr};

/// The shop with files at `/`, and others at `/assets`.
fn shop() -> Application {
    let application = Application::shop(ARRANGEMENTS[0]);
    let config = std::fs::read_to_string(application.config()).unwrap();
    let (before, after) = config.split_once("\n[http.files]\n").unwrap();
    let (_, after) = after.split_once('\n').unwrap();
    application
        .write(&format!("{before}\n[http.files]\n\"/\" = \"site\"\n\"/assets\" = \"assets\"\n{after}"));
    let folder = application.folder.path();
    std::fs::create_dir_all(folder.join("site/api")).unwrap();
    std::fs::create_dir_all(folder.join("assets")).unwrap();
    std::fs::write(folder.join("site/index.html"), "<h1>Shop</h1>").unwrap();
    std::fs::write(folder.join("site/api/products"), "a file").unwrap();
    std::fs::write(folder.join("assets/a.css"), "h1 {}").unwrap();
    application
}

#[test]
fn routes_go_before_files() {
    let application = shop();
    let shop = application.up();
    assert_eq!(shop.get("/api/products").expect(200), serde_json::json!([]));
    let page = ureq::get(format!("{}/", shop.address)).call().unwrap();
    assert_eq!(page.headers()["content-type"], "text/html");
    assert_eq!(page.headers()["x-request-id"].len(), 32);
    assert_eq!(page.into_body().read_to_string().unwrap(), "<h1>Shop</h1>");
    let style = ureq::get(format!("{}/assets/a.css", shop.address)).call().unwrap();
    assert_eq!(style.headers()["content-type"], "text/css");
    shop.get("/assets/b.css").expect_problem(404, "no route");
    shop.get("/cleave.toml").expect_problem(404, "no route");
    shop.get("/../cleave.toml").expect_problem(404, "no route");
    // Whoever asks for what is not there writes nothing into the log.
    shop.get(&format!("/{}", "a".repeat(5_000))).expect_problem(404, "no route");
    assert!(!shop.log().contains("cannot be read"), "{}", shop.log());
}

#[test]
fn folder_that_is_not_there_is_refused() {
    let application = shop();
    std::fs::remove_dir_all(application.folder.path().join("assets")).unwrap();
    for verb in ["check", "up"] {
        let output = application.run(verb, &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("assets does not exist") && said.contains("help:"), "{said}");
    }
}

#[test]
fn folder_with_more_in_it_than_files_is_refused() {
    for (folder, expected) in
        [(".", "the data folder"), (".", "the config file"), ("data/site", "the data folder")]
    {
        let application = Application::new(&format!("[http.files]\n\"/\" = {folder:?}\n"));
        std::fs::create_dir_all(application.folder.path().join(folder)).unwrap();
        let said = stderr(&application.run("check", &[]));
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ").replace(" │ ", " ");
        assert!(said.contains(&format!("would give {expected} to everybody")), "{said}");
        assert!(said.contains("cleave.toml:2") && said.contains("help:"), "{said}");
    }
    let application = Application::new("[http.files]\n\"/livez\" = \"site\"\n");
    std::fs::create_dir_all(application.folder.path().join("site")).unwrap();
    assert!(stderr(&application.run("check", &[])).contains("the host answers `/livez` itself"));
}
