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
