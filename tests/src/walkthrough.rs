//! Follows a document as a reader would: writes its files, types its commands, and looks whether the same comes out.
//!
//! What counts, all of it visible in the document as it is shown or in the info string of a fenced block:
//!
//! - A block under a line that is only a path, as in "`src/lib.rs`:", is that file, made or replaced.
//! - A `sh` block is commands, one a line, all of which succeed. A `console` block has commands behind `$ `, and under
//!   each exactly what it prints; a line `…` stands for any lines, and `…` in a line for any text.
//! - `exit=N` says how the last command of the block ends, if not with 0. `eventually` repeats the block's commands
//!   until they print what is shown. `skip` leaves the block to people.
//! - `terminal=N` is another terminal, opened where the first one stands. A command there may go on running once it has
//!   printed what is shown, until `^C` in a later block of the terminal.
//! - Every other block is only looked at.
//!
//! `127.0.0.1:8080`, `127.0.0.1:4222` and `127.0.0.1:8222` in the document have free ports in reality, in both directions.
//! Every wait is bounded, and whatever a terminal started ends with the walk.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long one command may take: it may have everything to compile.
const COMMAND_MAX: Duration = Duration::from_secs(600);
/// How long `eventually` goes on.
const EVENTUALLY_MAX: Duration = Duration::from_secs(60);
/// Between two tries of `eventually`.
const EVENTUALLY_EVERY: Duration = Duration::from_millis(50);
/// The addresses of all documents: of the application, of a NATS server, and where that tells of itself.
const DOCUMENTED: [&str; 4] = ["127.0.0.1:8080", "127.0.0.1:4222", "127.0.0.1:8222", "127.0.0.1:15432"];
/// Stands for anything, in a line or as one.
const ANYTHING: &str = "…";
/// What a reader types to end what runs in the foreground.
const INTERRUPT: &str = "^C";

/// Where a document is followed.
#[derive(Debug)]
pub struct Place {
    /// The folder that the first terminal opens in.
    pub folder: PathBuf,
    /// Variables of the terminals, over those of the test.
    pub environment: Vec<(String, String)>,
    /// Where in reality the [`DOCUMENTED`] ones are.
    addresses: [String; DOCUMENTED.len()],
}

impl Place {
    pub fn new(folder: PathBuf) -> Self {
        // Why held until all are known: they differ.
        let free = DOCUMENTED.map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = free.map(|port| port.local_addr().unwrap().to_string());
        Self { folder, environment: Vec::new(), addresses }
    }

    /// A text of the document as it is in this place.
    pub fn real(&self, documented: &str) -> String {
        self.addresses
            .iter()
            .zip(DOCUMENTED)
            .fold(documented.to_owned(), |text, (real, documented)| text.replace(documented, real))
    }

    fn documented(&self, real: &str) -> String {
        self.addresses
            .iter()
            .zip(DOCUMENTED)
            .fold(real.to_owned(), |text, (real, documented)| text.replace(real, documented))
    }
}

/// Where and how a document and reality differ.
#[derive(Debug, PartialEq)]
pub struct Mismatch {
    /// The line of the document, from 1.
    pub line: usize,
    /// The command, or what stands for it.
    pub command: String,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, command, expected, found } = self;
        write!(f, "line {line}: {command}\n--- expected\n{expected}\n--- found\n{found}\n---")
    }
}

/// Follows the document at a path, and fails with the place where it does not hold.
#[track_caller]
pub fn follow_file(document: &Path, place: &Place) {
    let text = std::fs::read_to_string(document).unwrap();
    if let Err(mismatch) = follow(&text, place) {
        panic!("{}, {mismatch}", document.display());
    }
}

/// Follows a document to its end or its first mismatch.
pub fn follow(text: &str, place: &Place) -> Result<(), Mismatch> {
    let blocks = blocks(text)?;
    let mut terminals = BTreeMap::from([(1, Terminal::open(&place.folder, place))]);
    for block in blocks {
        match block {
            Block::File { line, path, text } => {
                let path = terminals[&1].folder().join(path);
                write_file(&path, &place.real(&text)).map_err(|error| Mismatch {
                    line,
                    command: format!("write {}", path.display()),
                    expected: "a file".to_owned(),
                    found: error.to_string(),
                })?;
            }
            Block::Commands(commands) => {
                let folder = terminals[&1].folder();
                let terminal =
                    terminals.entry(commands.terminal).or_insert_with(|| Terminal::open(&folder, place));
                run_block(&commands, terminal, place)?;
            }
        }
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text)
}

/// A fenced block that something is done with.
#[derive(Debug, PartialEq)]
enum Block {
    File { line: usize, path: String, text: String },
    Commands(Commands),
}

#[derive(Debug, PartialEq, Default)]
struct Commands {
    terminal: u32,
    exit: i32,
    eventually: bool,
    commands: Vec<Typed>,
}

/// A command and what is shown under it; nothing is said about the output of a `sh` block.
#[derive(Debug, PartialEq)]
struct Typed {
    line: usize,
    text: String,
    expected: Option<String>,
}

/// Reads the blocks of a document.
fn blocks(text: &str) -> Result<Vec<Block>, Mismatch> {
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(text.lines());
    let mut above = "";
    while let Some((line, content)) = lines.next() {
        let Some(info) = content.strip_prefix("```") else {
            if !content.trim().is_empty() {
                above = content;
            }
            continue;
        };
        let body: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, line)| *line != "```").collect();
        let mut words = info.split_whitespace();
        match (named_file(std::mem::take(&mut above)), words.next()) {
            (Some(path), _) => {
                let text = body.iter().map(|(_, line)| format!("{line}\n")).collect();
                blocks.push(Block::File { line, path: path.to_owned(), text });
            }
            (None, Some(kind @ ("sh" | "console"))) => {
                let Some(commands) = options(line, words)? else { continue };
                let commands_of = if kind == "sh" { script } else { session };
                blocks.push(Block::Commands(Commands { commands: commands_of(line, &body)?, ..commands }));
            }
            _ => {}
        }
    }
    Ok(blocks)
}

/// The path in a line like "`src/lib.rs`:".
fn named_file(line: &str) -> Option<&str> {
    let path = line.strip_prefix('`')?.strip_suffix("`:")?;
    (!path.contains(['`', ' '])).then_some(path)
}

/// What the info string says about a block of commands; none if it is to be skipped.
fn options<'a>(line: usize, words: impl Iterator<Item = &'a str>) -> Result<Option<Commands>, Mismatch> {
    let mut commands = Commands { terminal: 1, ..Commands::default() };
    for word in words {
        match (word, word.split_once('=').map(|(name, number)| (name, number.parse::<u8>()))) {
            ("skip", _) => return Ok(None),
            ("eventually", _) => commands.eventually = true,
            (_, Some(("terminal", Ok(number)))) => commands.terminal = number.into(),
            (_, Some(("exit", Ok(code)))) => commands.exit = code.into(),
            _ => {
                return Err(misread(
                    line,
                    word,
                    "skip, eventually, terminal=N or exit=N behind sh or console",
                ));
            }
        }
    }
    Ok(Some(commands))
}

fn misread(line: usize, found: &str, expected: &str) -> Mismatch {
    let command = "read the document".to_owned();
    Mismatch { line, command, expected: expected.to_owned(), found: found.to_owned() }
}

/// The commands of a `sh` block: a line that ends in `\` goes on in the next.
fn script(line: usize, body: &[(usize, &str)]) -> Result<Vec<Typed>, Mismatch> {
    let mut commands: Vec<Typed> = Vec::new();
    for (line, content) in body {
        match commands.last_mut() {
            Some(last) if last.text.ends_with('\\') => last.text += &format!("\n{content}"),
            _ if content.trim().is_empty() => {}
            _ => commands.push(Typed { line: *line, text: (*content).to_owned(), expected: None }),
        }
    }
    if commands.is_empty() { Err(misread(line, "an empty block", "commands")) } else { Ok(commands) }
}

/// The commands of a `console` block and what is shown under each.
fn session(line: usize, body: &[(usize, &str)]) -> Result<Vec<Typed>, Mismatch> {
    let mut commands: Vec<Typed> = Vec::new();
    for (line, content) in body {
        let typed = content.strip_prefix("$ ").or((*content == INTERRUPT).then_some(INTERRUPT));
        if let Some(text) = typed {
            commands.push(Typed { line: *line, text: text.to_owned(), expected: Some(String::new()) });
        } else if let Some(Typed { text, expected: Some(expected), .. }) = commands.last_mut() {
            if text.ends_with('\\') {
                *text += &format!("\n{}", content.strip_prefix("> ").unwrap_or(content));
            } else {
                *expected += &format!("{content}\n");
            }
        } else {
            return Err(misread(*line, content, "a command behind `$ `, above what it prints"));
        }
    }
    if commands.is_empty() { Err(misread(line, "an empty block", "commands")) } else { Ok(commands) }
}

/// Types a block's commands, once or until they print what is shown.
fn run_block(block: &Commands, terminal: &mut Terminal, place: &Place) -> Result<(), Mismatch> {
    let began = Instant::now();
    loop {
        let outcome = run_once(block, terminal, place);
        if outcome.is_ok() || !block.eventually || began.elapsed() > EVENTUALLY_MAX {
            return outcome;
        }
        std::thread::sleep(EVENTUALLY_EVERY);
    }
}

fn run_once(block: &Commands, terminal: &mut Terminal, place: &Place) -> Result<(), Mismatch> {
    for (left, typed) in (0..block.commands.len()).rev().zip(&block.commands) {
        let is_shown = |found: &str| {
            typed.expected.as_ref().is_none_or(|expected| matches(expected, &place.documented(found)))
        };
        let mismatch = |expected: &str, found: &str| Mismatch {
            line: typed.line,
            command: typed.text.clone(),
            expected: expected.to_owned(),
            found: place.documented(found.trim_end()),
        };
        if typed.text == INTERRUPT {
            terminal.interrupt();
        } else {
            terminal.type_in(&place.real(&typed.text));
        }
        // A command of the first terminal ends before the reader goes on; one of another may go on running.
        let may_run_on = |found: &str| block.terminal != 1 && typed.text != INTERRUPT && is_shown(found);
        let shown = typed.expected.as_deref().unwrap_or_default().trim_end();
        let (found, status) = terminal
            .wait(may_run_on)
            .map_err(|(why, found)| mismatch(shown, &format!("{found}\n({why})")))?;
        let Some(status) = status else { continue };
        if !is_shown(&found) {
            return Err(mismatch(shown, &found));
        }
        let exit = if left == 0 { block.exit } else { 0 };
        if status != exit && typed.text != INTERRUPT {
            return Err(mismatch(&format!("exit code {exit}"), &format!("{found}\nexit code {status}")));
        }
    }
    Ok(())
}

/// Whether what was found is what is shown, line for line; white space at the ends of lines and below does not count.
fn matches(shown: &str, found: &str) -> bool {
    let lines = |text: &str| -> Vec<Vec<char>> {
        text.trim_end().lines().map(|line| line.trim_end().chars().collect()).collect()
    };
    let anything: Vec<char> = ANYTHING.chars().collect();
    let same_line =
        |shown: &Vec<char>, found: &Vec<char>| glob(shown, found, |c| anything.contains(c), |a, b| a == b);
    glob(&lines(shown), &lines(found), |line| *line == anything, same_line)
}

/// Whether a pattern with places for anything fits the whole.
fn glob<T>(pattern: &[T], whole: &[T], anything: impl Fn(&T) -> bool, same: impl Fn(&T, &T) -> bool) -> bool {
    let (mut p, mut w) = (0, 0);
    // The last place for anything, and how far it reaches.
    let mut open: Option<(usize, usize)> = None;
    while w < whole.len() {
        match pattern.get(p) {
            Some(part) if anything(part) => {
                open = Some((p, w));
                p += 1;
            }
            Some(part) if same(part, &whole[w]) => (p, w) = (p + 1, w + 1),
            _ => {
                let Some((place, reach)) = open else { return false };
                open = Some((place, reach + 1));
                (p, w) = (place + 1, reach + 1);
            }
        }
    }
    pattern[p..].iter().all(anything)
}

/// A shell that commands are typed into, in a process group of its own.
struct Terminal {
    shell: Child,
    input: ChildStdin,
    screen: Arc<Screen>,
    /// How many commands have been typed.
    typed: usize,
    /// How far the output has been looked at.
    seen: usize,
}

/// What a terminal shows.
#[derive(Default)]
struct Screen {
    /// The output so far, and whether it has ended.
    output: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl Terminal {
    fn open(folder: &Path, place: &Place) -> Self {
        let (mut reader, writer) = std::io::pipe().unwrap();
        // Why not at once: what ignores an interrupt, as what runs in the background may, hands that on, and a shell cannot
        // undo it.
        let mut shell = Command::new("env")
            .args(["--default-signal=INT", "sh"])
            .current_dir(folder)
            .envs(place.environment.iter().map(|(name, value)| (name, value)))
            .env("NO_COLOR", "1")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        let screen = Arc::new(Screen::default());
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            loop {
                let read = reader.read(&mut part).unwrap_or(0);
                let mut output = shown.output.lock().unwrap();
                output.0.extend_from_slice(&part[..read]);
                output.1 = read == 0;
                shown.changed.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        let mut input = shell.stdin.take().unwrap();
        // Why: an interrupt is for what runs in the foreground, and the shell lives on.
        input.write_all(b"trap : INT\n").unwrap();
        Self { shell, input, screen, typed: 0, seen: 0 }
    }

    /// Where the terminal stands.
    fn folder(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/{}/cwd", self.shell.id())).unwrap()
    }

    fn type_in(&mut self, command: &str) {
        self.typed += 1;
        // Why: `$?` is for the next command what it would be for a reader.
        let lines = format!(
            "{{ {command}\n}} </dev/null; walked=$?; printf '\\n%s %s\\n' {} $walked; (exit $walked)\n",
            self.mark()
        );
        // A shell that has ended is told by its output.
        let _ = self.input.write_all(lines.as_bytes());
    }

    /// What stands behind the output of the last command, before its exit code.
    fn mark(&self) -> String {
        format!("walkthrough-command-{}-ended", self.typed)
    }

    fn interrupt(&self) {
        self.signal("INT");
    }

    fn signal(&self, name: &str) {
        let group = format!("-{}", self.shell.id());
        let _ = Command::new("kill").args(["-s", name, "--", &group]).stderr(Stdio::null()).status();
    }

    /// Waits for the end of the last command, or until its output is enough, and gives the output that was not given
    /// before, with the exit code if it has ended.
    fn wait(
        &mut self,
        is_enough: impl Fn(&str) -> bool,
    ) -> Result<(String, Option<i32>), (&'static str, String)> {
        let began = Instant::now();
        let mark = format!("\n{} ", self.mark());
        let screen = Arc::clone(&self.screen);
        let mut output = screen.output.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(&output.0[self.seen..]).into_owned();
            let complete = text.rfind('\n').map_or("", |end| &text[..=end]);
            if let Some((found, status)) = complete.split_once(&mark) {
                self.seen = output.0.len();
                return Ok((found.to_owned(), Some(status.trim().parse().unwrap())));
            }
            if !complete.is_empty() && is_enough(complete) {
                self.seen += complete.len();
                return Ok((complete.to_owned(), None));
            }
            if output.1 {
                return Err(("the shell has ended", text));
            }
            let Some(left) = COMMAND_MAX.checked_sub(began.elapsed()) else {
                return Err(("it does not end", text));
            };
            output = screen.changed.wait_timeout(output, left).unwrap().0;
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.signal("KILL");
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows a document in a folder of its own.
    fn walk(document: &str) -> Result<(), Mismatch> {
        let folder = tempfile::tempdir().unwrap();
        follow(document, &Place::new(folder.path().to_owned()))
    }

    #[track_caller]
    fn refused(document: &str, line: usize, found: &str) {
        let mismatch = walk(document).unwrap_err();
        assert_eq!(mismatch.line, line, "{mismatch}");
        assert!(mismatch.to_string().contains(found), "{found:?} is not in {mismatch}");
    }

    #[test]
    fn files_are_written_and_commands_print_what_is_shown() {
        let document = "\
`a/b.txt`:

```text
one
two
```

```sh
cd a
grep -q two \\
  b.txt
```

```console
$ cat b.txt; printf three
one
two
three
$ test -f b.txt
```

`b.txt`:

```text
four
```

```console
$ cat b.txt
four
```
";
        walk(document).unwrap();
    }

    #[test]
    fn anything_may_stand_for_lines_and_parts_of_them() {
        walk("```console\n$ printf 'a 1 z\\nb\\nc\\nd\\n'\na … z\n…\nd\n```").unwrap();
        walk("```console\n$ printf 'a\\nb\\n'\na\n…\nb\n…\n```").unwrap();
        refused("```console\n$ printf 'a 1 y\\n'\na … z\n```", 2, "a 1 y");
        refused("```console\n$ printf 'a\\nb\\n'\n…\na\n```", 2, "b");
    }

    #[test]
    fn other_output_is_a_mismatch() {
        let mismatch = walk("\n```console\n$ echo b\na\n```").unwrap_err();
        let expected =
            Mismatch { line: 3, command: "echo b".into(), expected: "a".into(), found: "b".into() };
        assert_eq!(mismatch, expected);
        refused("```console\n$ echo unsaid\n```", 2, "unsaid");
        refused("```console\n$ true\nsaid\n```", 2, "said");
    }

    #[test]
    fn missing_file_is_a_mismatch() {
        refused("```sh\ncat nowhere.txt\n```", 2, "nowhere.txt");
    }

    #[test]
    fn unexpected_exit_code_is_a_mismatch() {
        refused("```sh\ntrue\nfalse\n```", 3, "exit code 1");
        refused("```console exit=1\n$ true\n```", 2, "exit code 0");
        refused("```console exit=1\n$ false\n$ false\n```", 2, "exit code 1");
        walk("```console exit=3\n$ true\n$ (exit 3)\n```").unwrap();
        refused("```sh\nexit 0\n```", 2, "the shell has ended");
    }

    #[test]
    fn block_that_is_misspelt_is_a_mismatch() {
        refused("```console exist=1\n$ true\n```", 1, "exist=1");
        refused("```console\ntrue\n```", 2, "behind `$ `");
        refused("```sh\n```", 1, "an empty block");
    }

    #[test]
    fn blocks_for_people_are_left_to_them() {
        walk("```sh skip\nfalse\n```\n\n```toml\na = 1\n```\n\nIn `a b`:\n\n```text\n```").unwrap();
    }

    #[test]
    fn ports_of_the_document_are_free_ones() {
        let document = "\
`address`:

```text
127.0.0.1:8080
```

`bus`:

```text
127.0.0.1:4222
```

```console
$ cat address bus; test 127.0.0.1:8080 = \"$(cat address)\"
127.0.0.1:8080
127.0.0.1:4222
$ test $(wc -c <address) -gt 15; test $(wc -c <bus) -gt 15
```
";
        walk(document).unwrap();
    }

    #[test]
    fn another_terminal_runs_on_until_it_is_interrupted() {
        let document = "\
```sh
mkdir -p there
cd there
```

```console terminal=2
$ pwd; sh -c 'echo ready; exec sleep 600'
…/there
ready
```

```console
$ echo meanwhile
meanwhile
```

```console terminal=2
^C
$ echo again
again
```
";
        walk(document).unwrap();
        refused("```console terminal=2\n$ echo other\nready\n```", 2, "other");
    }

    #[test]
    fn what_comes_eventually_is_waited_for() {
        let document = "\
```sh
(until test -f asked; do :; done; echo done >answer) & true
```

```console eventually
$ touch asked; cat answer 2>/dev/null || true
done
```
";
        walk(document).unwrap();
    }

    #[test]
    fn nothing_outlives_the_walk() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path().to_owned());
        follow("```sh\nsleep 600 & echo $! >pid\n```", &place).unwrap();
        let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
        let began = Instant::now();
        // One that was ended and that nobody has waited for yet may still be listed.
        let is_there = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
            status.is_ok_and(|status| !status.contains("State:\tZ"))
        };
        while is_there() {
            assert!(began.elapsed() < crate::PATIENCE, "{pid}");
            std::thread::yield_now();
        }
    }
}
