//! The documents that a newcomer follows, followed line by line, and the script that walks by itself.

use cleave_tests::walkthrough::{Place, follow_file};
use cleave_tests::{cleave, root, stderr, stdout};
use std::fs::File;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn guide_to_writing_a_module_holds() {
    // Why: cargo names what it builds by the folder, so a folder of the same name finds it built the next time.
    let kept = root().join("target/guide");
    std::fs::create_dir_all(&kept).unwrap();
    let lock = File::create(kept.join("lock")).unwrap();
    lock.lock().unwrap();
    let folder = kept.join("writing-a-module");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir(&folder).unwrap();
    let mut place = with_cleave(Place::new(folder));
    place.environment.push(("CARGO_BUILD_BUILD_DIR".into(), kept.join("build").display().to_string()));
    if !active_toolchain_builds_modules() {
        place.environment.push(("RUSTUP_TOOLCHAIN".into(), "cleave-guest".into()));
    }
    follow_file(&root().join("docs/writing-a-module.md"), &place);
}

#[test]
fn walk_through_the_shop_holds() {
    let folder = tempfile::tempdir().unwrap();
    // Why: PostgreSQL is another user's process if this is root's, and has to get to its data.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    // Why not the repository's own folder: the shop's data would lie in it.
    for name in ["modules", "scripts", "target", "wit"] {
        symlink(root().join(name), folder.path().join(name)).unwrap();
    }
    let (shop, copy) = (root().join("examples/ecommerce"), folder.path().join("examples/ecommerce"));
    std::fs::create_dir_all(&copy).unwrap();
    symlink(shop.join("storefront"), copy.join("storefront")).unwrap();
    let place = with_cleave(Place::new(folder.path().to_owned()));
    for name in ["cleave.toml", "split.toml", "nats.conf"] {
        let config = std::fs::read_to_string(shop.join(name)).unwrap();
        std::fs::write(copy.join(name), place.real(&config)).unwrap();
    }
    follow_file(&shop.join("README.md"), &place);
}

#[test]
fn split_script_takes_an_order_through_three_nodes() {
    let place = Place::new(root());
    let walked = Command::new("scripts/split")
        .arg("--once")
        .current_dir(&place.folder)
        .env("CLEAVE_BUS__NATS", place.real("nats://127.0.0.1:4222"))
        .env("CLEAVE_BUS__MONITORING", place.real("http://127.0.0.1:8222"))
        .env("CLEAVE_DATA__URL", place.real("postgres://shop:not-to-be-told@127.0.0.1:15432/shop"))
        .env("CLEAVE_NODES__FRONT__LISTEN", place.real("127.0.0.1:8080"))
        .output()
        .unwrap();
    assert!(walked.status.success(), "{}{}", stdout(&walked), stderr(&walked));
    assert!(!(stdout(&walked) + &stderr(&walked)).contains("not-to-be-told"), "the password was printed");
    for address in ["127.0.0.1:4222", "127.0.0.1:8222", "127.0.0.1:8080", "127.0.0.1:15432"] {
        assert!(TcpStream::connect(place.real(address)).is_err(), "{address} is still served");
    }
}

/// The place with the binary under test on its path.
fn with_cleave(mut place: Place) -> Place {
    let binary = PathBuf::from(cleave().get_program());
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", binary.parent().unwrap().display());
    place.environment.push(("PATH".into(), path));
    place
}

/// Whether modules can be built without the toolchain that `make setup` links where rustup has not the target.
fn active_toolchain_builds_modules() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
    let sysroot = String::from_utf8(sysroot).unwrap();
    Path::new(sysroot.trim()).join("lib/rustlib/wasm32-wasip2/lib").exists()
}
