//! Problems with folders and sockets: `mqueue wakeup` logs each in one clear line, once, and still
//! wakes other groups.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::{Doors, Mqueue, Nsqd, Told, mqueue, needs, wait_until};

/// Starts an nsqd with a message for each of these groups of stream foo, and for group `good`,
/// whose socket is valid.
fn nsqd_with(groups: &[&str]) -> Nsqd {
    let nsqd = Nsqd::start();
    groups.iter().chain(&["good"]).for_each(|group| nsqd.create("foo", group));
    nsqd.publish("foo", b"x");
    nsqd
}

/// Runs wakeup until `good` was woken and some polls have passed: `words` were logged once, and no
/// other problem.
#[track_caller]
fn says_once(wakeup: Mqueue, doors: &Doors, words: &[&str]) {
    let wakeup = wakeup.start();
    let told = Told::by(&wakeup);
    doors.wait_for_poke("good.sock");
    words.iter().for_each(|words| wakeup.wait_to_say(words));
    // the interval of failing pokes is a second
    wait_until("more pokes", || doors.pokes("good.sock") >= 2);
    told.wait_for_polls(3);
    let said = wakeup.stderr();
    for words in words {
        assert_eq!(wakeup.times_said(words), 1, "{words:?} in:\n{said}");
    }
    let troubles = said.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    assert_eq!(troubles, words.len(), "{said}");
}

const ARGS: &str = "--poll-interval 50ms --listen 127.0.0.1:0";

#[test]
fn missing_folders_are_logged_unless_another_has_a_socket() {
    needs!("nsqd");
    let (nsqd, doors) = (nsqd_with(&[]), Doors::new(&["good.sock"]));
    let missing = doors.at("missing");
    says_once(doors.wakeup(&nsqd, &format!("{ARGS} --socket-dir {}", missing.display())), &doors, &[]);
    let nowhere = mqueue(&format!("wakeup --nsqd-http-address {} {ARGS}", nsqd.http()))
        .arg("--socket-dir")
        .arg(missing.to_str().unwrap());
    nowhere.start().wait_to_say("missing: no such file or directory: fix it, or name another --socket-dir");
}

#[test]
fn groups_named_like_a_foreign_socket_do_not_poke_it() {
    needs!("nsqd");
    let (nsqd, foreign) = (nsqd_with(&["docker"]), Doors::new(&["docker.sock", "good.sock"]));
    // the only other place is the default folder, which is ours
    let wakeup = mqueue(&format!(
        "wakeup --nsqd-http-address {} {ARGS} --socket {}",
        nsqd.http(),
        foreign.at("good.sock").display()
    ));
    says_once(wakeup, &foreign, &[]);
    assert_eq!(foreign.pokes("docker.sock"), 0);
    let help = mqueue("wakeup --help").run().stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("[env: MQUEUE_SOCKET_DIR=] [default: /run/mqueue]"), "{help}");
}

#[test]
fn files_named_like_a_socket_are_logged() {
    needs!("nsqd");
    let (nsqd, doors) = (nsqd_with(&["plain", "folder", "gone"]), Doors::new(&["good.sock", "gone.sock"]));
    std::fs::write(doors.at("plain.sock"), "").unwrap();
    std::fs::create_dir(doors.at("folder.sock")).unwrap();
    doors.close("gone.sock");
    // no unit can hold it: there are no settings for one
    let remedy = "nobody listens on it: restart the program that created it";
    let words = ["plain.sock is no socket", "folder.sock is no socket", remedy];
    says_once(doors.wakeup(&nsqd, ARGS), &doors, &words);
}

#[test]
fn links_out_of_the_folder_are_not_followed() {
    needs!("nsqd");
    let (nsqd, doors) = (nsqd_with(&["link", "inner"]), Doors::new(&["good.sock", "inner-target"]));
    let outside = Doors::new(&["secret"]);
    symlink(outside.at("secret"), doors.at("link.sock")).unwrap();
    symlink(doors.at("inner-target"), doors.at("inner.sock")).unwrap();
    let words = ["link.sock is a symbolic link, which is not followed", "inner.sock is a symbolic link"];
    says_once(doors.wakeup(&nsqd, ARGS), &doors, &words);
    assert_eq!((outside.pokes("secret"), doors.pokes("inner-target")), (0, 0));
}

#[test]
fn a_socket_shared_by_two_streams_is_poked_for_each() {
    needs!("nsqd");
    let (nsqd, doors) = (nsqd_with(&["same"]), Doors::new(&["good.sock", "same.sock"]));
    nsqd.create("bar", "same");
    says_once(doors.wakeup(&nsqd, ARGS), &doors, &["is claimed by group same of stream bar and of foo"]);
    assert!(doors.pokes("same.sock") >= 1);
}

#[test]
fn of_two_files_for_one_consumer_one_is_poked() {
    needs!("nsqd");
    let (nsqd, doors) = (nsqd_with(&["two"]), Doors::new(&["good.sock", "two.sock", "two"]));
    says_once(doors.wakeup(&nsqd, ARGS), &doors, &["two.sock exists as well"]);
    assert!(doors.pokes("two.sock") >= 1);
    assert_eq!(doors.pokes("two"), 0);
}

#[test]
fn a_socket_that_listens_again_is_poked_within_about_a_second() {
    needs!("nsqd");
    let (nsqd, doors) = (nsqd_with(&["gone"]), Doors::new(&["good.sock", "gone.sock"]));
    doors.close("gone.sock");
    let wakeup = doors.wakeup(&nsqd, ARGS).start();
    let told = Told::by(&wakeup);
    wait_until("four failed pokes", || told.metric("mqueue_wakeup_failed_pokes_total") >= 4.0);
    std::fs::remove_file(doors.at("gone.sock")).unwrap();
    doors.open("gone.sock");
    doors.wait_for_poke("gone.sock");
    assert_eq!(wakeup.times_said("nobody listens"), 1, "{}", wakeup.stderr());
}

#[test]
fn missing_permissions_for_folders_and_sockets_are_logged() {
    needs!("nsqd");
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let (nsqd, doors) = (nsqd_with(&["locked"]), Doors::new(&["good.sock", "locked.sock"]));
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    mode(doors.path(), 0o755);
    mode(&doors.at("good.sock"), 0o666);
    mode(&doors.at("locked.sock"), 0o660);
    std::fs::create_dir(doors.at("hidden")).unwrap();
    mode(&doors.at("hidden"), 0o700);
    let args = format!("{ARGS} --socket-dir {}", doors.at("hidden").display());
    let words = ["hidden: permission denied", "locked.sock: permission denied: run this program as root"];
    says_once(doors.wakeup(&nsqd, &args).run_by(65534), &doors, &words);
    assert_eq!(doors.pokes("locked.sock"), 0);
}

#[test]
fn a_named_socket_that_is_not_there_is_said() {
    needs!("nsqd");
    let (nsqd, doors) = (nsqd_with(&[]), Doors::new(&["good.sock"]));
    let (gone, good) = (doors.at("gone.sock"), doors.at("good.sock"));
    let missing = format!("there is no socket {}: ", gone.display());
    says_once(doors.wakeup(&nsqd, &format!("{ARGS} --socket {}", gone.display())), &doors, &[&missing]);
    let once = |socket: &Path| {
        let args = format!("wakeup --once --dry-run --nsqd-http-address {} --socket-dir /nope --socket", nsqd.http());
        mqueue(&args).arg(socket.to_str().unwrap()).run()
    };
    let nobody = once(&gone);
    assert!(nobody.code == Some(1) && nobody.stderr.contains(&missing), "{nobody:?}");
    assert_eq!(once(&good).code, Some(0));
}
