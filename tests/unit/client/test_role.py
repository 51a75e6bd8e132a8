# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role knock_client in a home of the test: it makes what it says, and takes nothing else away."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import FILES
from .door import Door

# With the ends of lines of another system, a block that matches anything, and no end of the last line.
MINE = b"Match host mine\r\n    User me\r\nHost *\r\n    Port 5"
BLOCK = b"# BEGIN sesame.knock\nInclude sesame_knock.conf\n# END sesame.knock\n"
HOSTS: dict[str, Any] = {
    "localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "knock_sequence": "9,8"},
    "web1": {
        "ansible_host": "198.18.7.2",
        "ansible_port": 2222,
        "ansible_user": "admin",
        "ansible_ssh_private_key_file": "~/.ssh/work key",
        "knock_sequence": "4242,1717:udp",
    },
    "web2": {"knock_sequence": [4343, 1818], "knock_sequence_previous": "4444,1919"},
    "plain": {},
}


# Where each shell looks by itself, or as README.md says.
COMPLETED = [
    (
        "bash",
        "source /usr/share/bash-completion/bash_completion; _completion_loader knock; complete -p knock",
        "_knock",
    ),
    ("fish", "complete -C 'knock do'", "door\t127.0.0.1"),
    (
        "zsh",
        "fpath=(~/.local/share/zsh/site-functions $fpath); autoload -U compinit; compinit -uD; echo $_comps[knock]",
        "_knock",
    ),
]


class Home:
    """A home, and the role run in it."""

    def __init__(self, path: Path, ansible: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        self.path = path
        self.bin = path / ".local" / "bin"
        self.profiles = path / ".config" / "sesame-knock"
        self.ssh_config = path / ".ssh" / "config"
        self.included = path / ".ssh" / "sesame_knock.conf"
        self._ansible = ansible
        self.ssh_config.parent.mkdir(parents=True, mode=0o700)
        self.ssh_config.write_bytes(MINE)
        self.ssh_config.chmod(0o644)

    def play(
        self, *arguments: str, hosts: dict[str, Any] | None = None, world: str = "", **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        directory = self.path.parent
        one = {"hosts": "localhost", "gather_facts": False, "roles": ["sesame.knock.knock_client"], "vars": variables}
        one["vars"] = {"knock_client_prefix": "~/.local", "knock_client_python": sys.executable, **variables}
        (directory / "play.yml").write_text(json.dumps([one]))
        (directory / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts or HOSTS}}))
        words = ["ansible-playbook", "-i", "hosts.yml", "play.yml", *arguments]
        # Where ssh looks, whatever HOME says: the home is root's, in the view of this run.
        (directory / "roots").write_text("root:x:0:0::%s:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n" % self.path)
        world = "mount --bind %s/roots /etc/passwd\n%s" % (directory, world)
        return self._ansible(*words, world=world, HOME=str(self.path), SUDO_USER="")

    def run(self, *arguments: str, **options: Any) -> str:
        done = self.play(*arguments, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def files(self) -> set[str]:
        found = (path.relative_to(self.path) for path in self.path.rglob("*") if not path.is_dir() or path.is_symlink())
        return {str(path) for path in found if "__pycache__" not in path.parts and path.parts[0] != ".ansible"}


@pytest.fixture
def home(tmp_path: Path, ansible: Callable[..., subprocess.CompletedProcess[str]]) -> Home:
    return Home(tmp_path / "home", ansible)


def test_it_makes_what_it_says_twice_the_same_and_takes_all_of_it_away(home: Home) -> None:
    home.profiles.mkdir(parents=True)
    (home.profiles / "mine.json").write_text("of someone else\n")
    (home.profiles / "notes").write_text("of someone else\n")
    home.bin.mkdir(parents=True, mode=0o700)
    before = home.files()

    assert home.run("--check", "--diff").count("failed=0") == 1
    assert home.files() == before

    shown = home.run("--diff", "-vvv")
    # Both at once: -vvv shows times and process numbers, and one of these may be any number.
    assert not re.search(r"4242\D{1,12}1717|4343\D{1,12}1818|4444\D{1,12}1919", shown)
    assert home.ssh_config.read_bytes() == BLOCK + MINE
    assert stat.S_IMODE(home.ssh_config.stat().st_mode) == 0o644
    assert stat.S_IMODE(home.bin.stat().st_mode) == 0o700
    profiles = {path.stem: json.loads(path.read_text()) for path in home.profiles.glob("web*.json")}
    assert profiles == {
        "web1": {"sequence": "4242:tcp,1717:udp", "host": "198.18.7.2", "port": 2222},
        "web2": {"sequence": "4343:tcp,1818:tcp", "previous": "4444:tcp,1919:tcp", "host": "web2", "port": 22},
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.profiles.glob("web*.json")} == {0o600}
    assert stat.S_IMODE(home.profiles.stat().st_mode) == 0o700
    links = [path for path in home.files() - before if (home.path / path).is_symlink()]
    assert sorted(links) == [
        ".local/bin/knock",
        ".local/bin/knock-proxy",
        ".local/share/bash-completion/completions/knock",
        ".local/share/fish/vendor_completions.d/knock.fish",
        ".local/share/man/man1/knock.1",
        ".local/share/zsh/site-functions/_knock",
    ]
    assert all((home.path / link).is_file() for link in links)

    assert "changed=0 " in home.run()

    fewer = {name: HOSTS[name] for name in ("localhost", "web2")}
    installed = home.files()
    assert "changed=3 " in home.run("--check", hosts=fewer)
    assert home.files() == installed
    assert "changed=3 " in home.run(hosts=fewer)
    assert installed - home.files() == {".config/sesame-knock/web1.json"}
    assert "web1" not in home.included.read_text()

    rehearsed = home.run("--check", knock_client_state="absent")
    assert home.files() > before
    assert changes(home.run(knock_client_state="absent")) == changes(rehearsed)
    assert home.files() == before
    assert home.ssh_config.read_bytes() == MINE


def changes(shown: str) -> str:
    return re.findall(r"changed=\d+", shown)[0]


def test_ssh_and_the_commands_work_from_there(home: Home, door: Door) -> None:
    # A configuration that is a link, as people have who keep their dotfiles in one place.
    dotfile = home.path / "dotfiles" / "ssh_config"
    dotfile.parent.mkdir()
    home.ssh_config.rename(dotfile)
    home.ssh_config.symlink_to("../dotfiles/ssh_config")
    there = {"ansible_host": "127.0.0.1", "ansible_port": door.port, "knock_sequence": door.sequence}
    home.run(hosts={"localhost": HOSTS["localhost"], "door": there})
    assert os.readlink(home.ssh_config) == "../dotfiles/ssh_config"
    assert dotfile.read_bytes() == BLOCK + MINE
    # ssh looks for an Include of a user in the home that passwd names, so it is given the file itself here.
    shown = options(home, "door")
    assert "proxyusefdpass yes" in shown
    assert "hostname 127.0.0.1" in shown
    (proxy,) = (line.split(" ", 1)[1] for line in shown if line.startswith("proxycommand "))

    environment = {**os.environ, "HOME": str(home.path)}
    environment.pop("XDG_CONFIG_HOME", None)
    subprocess.run([str(home.bin / "knock"), "-w", "door"], check=True, env=environment)
    assert door.arrived == door.ports
    for shell, question, answer in COMPLETED:
        if shutil.which(shell):
            asked = subprocess.run(
                [shell, "-c", question],
                env={**environment, "PATH": "%s:%s" % (home.bin, os.environ["PATH"])},
                capture_output=True,
                text=True,
                check=False,
            )
            assert answer in asked.stdout, asked.stdout + asked.stderr

    command = proxy.replace("%h", "127.0.0.1").replace("%p", str(door.port))
    process = subprocess.Popen(["/bin/sh", "-c", "exec " + command], env=environment, stdin=-1, stdout=-1)
    assert process.stdout
    assert process.stdout.readline().startswith(b"SSH-2.0-")
    process.kill()
    process.communicate()


def options(home: Home, host: str) -> list[str]:
    """What ssh makes of a host."""
    words = ["ssh", "-F", str(home.included), "-G", host]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_host_of_ssh_is_what_the_inventory_says(home: Home) -> None:
    one = {"knock_sequence": "9"}
    hosts = {
        **HOSTS,
        "fd00:5e5a::7": one,
        "six": {**one, "ansible_host": "fe80::1%lo", "ansible_user": "two words"},
        "shared1": {**one, "ansible_host": "198.18.7.9", "ansible_port": 2201},
        "shared2": {**one, "ansible_host": "198.18.7.9", "ansible_ssh_private_key_file": "relative"},
        "hop": {**one, "ansible_host": "hop.invalid", "knock_host": "198.18.7.10"},
    }
    home.run(hosts=hosts)
    web1 = options(home, "web1")
    assert {"hostname 198.18.7.2", "port 2222", "user admin", "identityfile ~/.ssh/work key"} <= set(web1)
    assert "port 2222" in options(home, "198.18.7.2")
    assert [line for line in options(home, "fd00:5e5a::7") if line.startswith("proxycommand")]
    six = options(home, "six")
    assert "hostname fe80::1%lo" in six
    assert options(home, "fe80::1%lo")[0].startswith("host")
    assert "user two words" in six
    assert "port 2201" in options(home, "shared1")
    assert "port 22" in options(home, "shared2")
    assert "relative" not in home.included.read_text()
    assert not [line for line in options(home, "198.18.7.9") if line.startswith("proxycommand")]
    assert "hostname 198.18.7.10" in options(home, "hop")


# A passwd, a /usr/local and homes that only this run sees.
WORLD = """
mount --bind {directory}/passwd /etc/passwd
mount --bind {directory}/usr /usr/local
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/anna /mnt/ben
mount --bind {directory}/anna /mnt/anna
mount --bind {directory}/ben /mnt/ben
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs for everybody")
@pytest.mark.skipif(sys.base_prefix.startswith("/usr/local"), reason="the Python of the tests would be hidden")
def test_root_installs_for_everybody_and_each_user_has_hosts(home: Home, tmp_path: Path) -> None:
    passwd = Path("/etc/passwd").read_text().splitlines()
    passwd = [line for line in passwd if not line.startswith(("root:", "anna:", "ben:"))]
    passwd.append("root:x:0:0::%s:/bin/sh" % home.path)
    (tmp_path / "usr").mkdir()
    for number, user in enumerate(("anna", "ben")):
        (tmp_path / user).mkdir(mode=0o700)
        os.chown(tmp_path / user, 61001 + number, 62001 + number)
        # Where they may go: pytest's own folders are root's
        passwd.append("%s:x:%d:%d::/mnt/%s:/bin/sh" % (user, 61001 + number, 62001 + number, user))
    (tmp_path / "passwd").write_text("\n".join(passwd) + "\n")
    everybody = {"knock_client_prefix": "", "knock_client_python": "", "world": WORLD.format(directory=tmp_path)}

    home.run(**everybody, knock_client_user="anna")
    home.run(**everybody, knock_client_user="ben", knock_client_hosts=["web2"])
    for user, uid, gid, names in (("anna", 61001, 62001, ["web1", "web2"]), ("ben", 61002, 62002, ["web2"])):
        made = [path.lstat() for path in (tmp_path / user).rglob("*")]
        assert {(found.st_uid, found.st_gid) for found in made} == {(uid, gid)}
        assert not {found.st_mode & 0o077 for found in made} - {0}
        assert sorted(path.stem for path in (tmp_path / user).glob(".config/sesame-knock/*.json")) == names
        assert "/usr/local/bin/knock-proxy " in (tmp_path / user / ".ssh" / "sesame_knock.conf").read_text()
    assert (tmp_path / "usr" / "bin" / "knock").read_text().startswith('#!/bin/sh\n"exec" "/usr/bin/python3" ')
    installed = [path for path in (tmp_path / "usr").rglob("*") if not path.is_symlink()]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in installed)

    # ssh reads it, from the home that passwd names, and the user's own configuration after it.
    home.ssh_config.write_bytes(BLOCK + MINE)
    home.run(**everybody)
    words = ["unshare", "--mount", "sh", "-ec", everybody["world"] + "ssh -G web1; ssh -G other"]
    environment = {**os.environ, "HOME": str(home.path)}  # where glob(3) looks for an Include
    asked = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
    assert asked.count("proxycommand /usr/local/bin/knock-proxy") == 1
    assert "port 2222\n" in asked
    assert "port 5\n" in asked

    home.run(**everybody, knock_client_user="ben", knock_client_hosts=[])
    assert not list((tmp_path / "ben").glob(".config/sesame-knock/*.json"))
    assert (tmp_path / "usr" / "bin" / "knock").exists()
    home.run(**everybody, knock_client_user="anna", knock_client_state="absent")
    assert not [path for path in (tmp_path / "usr").rglob("*") if not path.is_dir()]
    # Nothing but what ssh had before: not even an empty file.
    assert not [path for path in (tmp_path / "anna").rglob("*") if not path.is_dir()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a file read-only for itself")
def test_a_configuration_that_cannot_be_written_may_have_the_line_itself(home: Home) -> None:
    world = f"mount --bind {home.ssh_config} {home.ssh_config}; mount -o remount,ro,bind {home.ssh_config}"
    before = home.files()
    done = home.play(world=world)
    assert done.returncode != 0
    assert 'put the line "Include sesame_knock.conf" at its top' in done.stdout
    assert home.files() == before

    mine = b"Include ~/.ssh/sesame_knock.conf\n" + MINE
    home.ssh_config.write_bytes(mine)
    home.run(world=world)
    assert home.ssh_config.read_bytes() == mine
    assert home.included.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a folder read-only for itself")
@pytest.mark.parametrize("folder", ["", ".ssh", ".config"])
def test_a_home_that_cannot_be_written_is_told_before_anything_changes(home: Home, folder: str) -> None:
    (home.path / ".config").mkdir()
    place = home.path / folder
    before = home.files()
    done = home.play(world=f"mount --bind {place} {place}; mount -o remount,ro,bind {place}")
    assert done.returncode != 0
    assert "/.%s is no folder that can be written" % (folder[1:] or "config") in done.stdout
    assert home.files() == before


def test_a_jump_host_is_in_the_profile_as_the_own_ssh_knows_it(home: Home) -> None:
    """Set for all hosts: the jump host is reached without itself, and by its name, for its Host has its knock."""
    hosts = {
        "localhost": HOSTS["localhost"],
        "bastion": {"ansible_host": "198.18.7.1", "knock_sequence": "1,2", "knock_jump": "bastion"},
        "relay": {"ansible_host": "198.18.7.9", "ansible_port": 2222, "ansible_user": "joe"},
        "web1": {"knock_sequence": "3,4", "knock_jump": "bastion"},
        "web2": {"knock_sequence": "3,4", "knock_jump": "relay, root@far:2022"},
        "web3": {"knock_sequence": "3,4", "knock_jump": "none"},
    }
    home.run(hosts=hosts)
    jumps = {path.stem: json.loads(path.read_text()).get("jump") for path in home.profiles.glob("*.json")}
    assert jumps == {
        "bastion": None,
        "web1": ["bastion"],
        "web2": ["-o", "ProxyCommand=ssh -p 2222 -l joe -W [%h]:%p -- 198.18.7.9", "-p", "2022", "root@far"],
        "web3": None,
    }
    assert "changed=0 " in home.run(hosts=hosts)


def test_what_is_of_someone_else_is_not_replaced_or_removed(home: Home) -> None:
    completion = home.path / ".local/share/bash-completion/completions/knock"
    for place in (home.bin / "knock", completion):
        place.parent.mkdir(parents=True)
        place.write_text("of someone else\n")
    done = home.play()
    assert done.returncode != 0
    assert "%s, %s is not of this role" % (home.bin / "knock", completion) in done.stdout
    assert home.ssh_config.read_bytes() == MINE
    home.run(knock_client_state="absent")
    assert (home.bin / "knock").exists()
    assert completion.exists()


def test_a_profile_of_someone_else_is_not_replaced(home: Home) -> None:
    home.profiles.mkdir(parents=True)
    (home.profiles / "web2.json").write_text("of someone else\n")
    before = home.files()
    done = home.play()
    assert done.returncode != 0
    assert "/web2.json is not of this role" in done.stdout
    assert home.files() == before


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"knock_client_hosts": ["web3"]}, "knock_client_hosts names web3"),
        ({"knock_client_hosts": ["plain"]}, "knock_client_hosts names plain"),
        ({"knock_client_state": "gone"}, "knock_client_state"),
        ({"knock_client_python": "/bin/false"}, "needs Python 3.9 or later, and /bin/false is not that"),
        ({"knock_client_user": "nobody-here"}, "nobody-here, who is unknown here"),
        ({"ansible_host": "198.18.7.2\n    ProxyCommand evil"}, "cannot be written as a Host"),
        ({"ansible_host": "*"}, "cannot be written as a Host"),
        ({"knock_sequence": "4242,70000"}, "knock_sequence: knock 2, '70000'"),
        ({"knock_sequence": "4242,1", "knock_jump": "a b"}, "web1: knock_jump is 'a b', which is neither"),
        (
            {"knock_sequence": "4242,1", "knock_jump": "a,web2"},
            "web2 behind a. It is knocked at, so its own knock_jump",
        ),
    ],
)
def test_a_mistake_is_named_before_anything_changes(home: Home, variables: dict[str, Any], words: str) -> None:
    before = home.files()
    hosts = HOSTS
    if "knock_sequence" in variables or "ansible_host" in variables:
        hosts, variables = {**HOSTS, "web1": {**HOSTS["web1"], **variables}}, {}
    done = home.play(hosts=hosts, **variables)
    assert done.returncode != 0
    assert words in done.stdout
    assert "4242" not in done.stdout
    assert home.files() == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ansible_port", "22\nProxyCommand touch /tmp/x"),
        ("ansible_user", "me\nProxyCommand touch /tmp/x"),
        ("ansible_ssh_private_key_file", "/key\nProxyCommand touch /tmp/x"),
        ("knock_host", "198.18.7.2\nProxyCommand touch /tmp/x"),
    ],
)
def test_a_value_that_would_be_another_line_of_ssh_config_changes_nothing(
    home: Home, variable: str, value: str
) -> None:
    before = home.files()
    done = home.play(hosts={**HOSTS, "web1": {**HOSTS["web1"], variable: value}})
    assert done.returncode != 0
    assert "web1" in done.stdout and (variable in done.stdout or variable == "knock_host")
    assert home.files() == before
    assert home.ssh_config.read_bytes() == MINE


# What ssh itself says


OWN = {
    "an earlier host": "Host web1\n    ProxyCommand cloudflared access ssh --hostname %h\n",
    "all hosts": "Host *\n    ProxyCommand nc -X 5 -x localhost:1080 %h %p\n",
    "the address": "Host 198.18.7.2\n    ProxyCommand nc %h %p\n",
    "match exec": 'Match originalhost web1 exec "true"\n    ProxyCommand nc %h %p\n',
    "a jump": "Host web1\n    ProxyJump bastion\n",
    "a jump of old": "Host web1\n    ProxyCommand ssh -W %h:%p bastion\n",
    "an included file": "Include other.conf\n",
    "a file beside that of the role": "Include other.conf sesame_knock.conf\n",
    "a host that is called as our command": "Host web1\n    ProxyCommand cloudflared --hostname knock-proxy.test\n",
    "after the line of the role": "Include sesame_knock.conf\nHost web1\n    ProxyCommand nc %h %p\n",
    "no configuration": "Hostt web1\n",
}


class Ssh:
    """The real ssh of a user whose home is a folder, in a view of its own: it asks the password database."""

    def __init__(self, path: Path) -> None:
        self.config = path / ".ssh" / "config"
        self.system = path / "system"
        self._passwd = path / "passwd"
        self.config.parent.mkdir(mode=0o700)
        self._passwd.write_text("root:x:0:0::%s:/bin/sh\n" % path)
        self.system.write_text("")
        (self.config.parent / "other.conf").write_text(OWN["an earlier host"])
        (self.config.parent / "sesame_knock.conf").write_text("Host web1\n    ProxyCommand knock-proxy ours\n")

    def problems(self, without: bool, jump: bool = False, path: str = "/usr/bin:/bin:/usr/sbin:/sbin") -> list[str]:
        """What ask_ssh.py says of web1, which finds ssh below this path."""
        root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        world = "mount --bind %s /etc/passwd; mount --bind %s /etc/ssh/ssh_config" % (self._passwd, self.system)
        words = [sys.executable, "-IS", "-c", (FILES / "sesame_knock" / "ask_ssh.py").read_text()]
        host = {"name": "web1", "address": "198.18.7.2", "ours": "knock-proxy ours", "jump": jump}
        done = subprocess.run(
            ["unshare", *root, "--mount", "sh", "-ec", world + '\nPATH=%s\nexec "$@"' % path, "sh", *words],
            input=json.dumps({"user": "root", "hosts": [host], "without": without}),
            capture_output=True,
            text=True,
            check=True,
        )
        found: list[str] = json.loads(done.stdout)
        return found


@pytest.fixture
def real_ssh(tmp_path: Path) -> Ssh:
    return Ssh(tmp_path)


@pytest.mark.parametrize("place", ["config", "system"])
@pytest.mark.parametrize("case", OWN)
def test_a_way_of_the_user_or_the_machine_is_found(real_ssh: Ssh, case: str, place: str) -> None:
    if place == "system" and "nclude" in OWN[case]:
        pytest.skip("a relative path is of another folder there")
    getattr(real_ssh, place).write_text(OWN[case])
    (problem,) = real_ssh.problems(without=True)[:1]
    assert "ProxyCommand" in problem or "ProxyJump" in problem or case == "no configuration"
    if case not in ("the address", "no configuration"):
        assert problem.startswith("web1: ")


@pytest.mark.parametrize("case", OWN)
def test_a_jump_that_the_inventory_decides_is_no_problem(real_ssh: Ssh, case: str) -> None:
    real_ssh.config.write_text(OWN[case])
    assert bool(real_ssh.problems(without=True, jump=True)) == ("jump" not in case)


@pytest.mark.parametrize(
    "mine", ["", "Host *\n    User me\n    ProxyCommand none\n", "Host other\n    ProxyJump bastion\n", BLOCK.decode()]
)
def test_what_is_no_way_of_the_user_is_no_problem(real_ssh: Ssh, mine: str) -> None:
    real_ssh.config.write_text(mine)
    assert real_ssh.problems(without=True) == []


LOOK_LIKE_IT = [
    "Include sesame_knock.conf.bak\n",
    "# Include sesame_knock.conf\n",
    "Host other\n    Include sesame_knock.conf\n",
    "Match originalhost other\n    Include ~/.ssh/sesame_knock.conf\n",
    "Host web1\n    ProxyCommand none\nMatch all\nInclude sesame_knock.conf\n",
]


@pytest.mark.parametrize("mine", LOOK_LIKE_IT)
def test_a_line_that_looks_like_the_include_is_none(real_ssh: Ssh, mine: str) -> None:
    real_ssh.config.write_text(mine)
    assert real_ssh.problems(without=False)[0].startswith("web1: ssh uses no ProxyCommand")


@pytest.mark.parametrize(
    "mine",
    ["Include sesame_*.conf\n", 'include = "~/.ssh/sesame_knock.conf"\n', "Match all\nInclude no sesame_knock.conf\n"],
)
def test_an_include_that_ssh_follows_is_enough(real_ssh: Ssh, mine: str) -> None:
    """But for the address, which the file of this test does not name."""
    real_ssh.config.write_text(mine)
    assert [problem for problem in real_ssh.problems(without=False) if problem.startswith("web1: ")] == []


def test_where_there_is_no_ssh_yet_the_line_is_written_all_the_same(real_ssh: Ssh) -> None:
    real_ssh.config.unlink(missing_ok=True)
    assert real_ssh.problems(without=True, path="/nowhere") == []
    assert real_ssh.problems(without=False, path="/nowhere")
    real_ssh.config.write_bytes(BLOCK)
    assert real_ssh.problems(without=False, path="/nowhere") == []


def test_the_line_is_written_where_others_only_look_like_it(home: Home) -> None:
    mine = "".join(LOOK_LIKE_IT[:4])
    home.ssh_config.write_text(mine)
    home.run()
    assert home.ssh_config.read_bytes() == BLOCK + mine.encode()
    assert "changed=0" in home.run()

    home.ssh_config.write_bytes(LOOK_LIKE_IT[4].encode() + BLOCK)
    done = home.play()
    assert done.returncode != 0
    assert "web1: ssh uses no ProxyCommand" in done.stdout
    assert "web2: " not in done.stdout


def test_a_way_of_the_user_is_never_hidden(home: Home) -> None:
    home.ssh_config.write_text(OWN["match exec"])
    before = home.files()
    done = home.play()
    assert done.returncode != 0
    assert "web1: your configuration of ssh has the ProxyCommand 'nc %h %p'" in done.stdout
    assert "Nothing has been changed" in done.stdout
    assert home.files() == before
    assert home.ssh_config.read_text() == OWN["match exec"]
