//! Users of this host, as `/etc/passwd` has them.

use crate::error::{Error, ErrorKind, io_error};

/// A user a server or a tool runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// The user coffer runs as.
    pub(crate) fn own() -> User {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let passwd = read_passwd().unwrap_or_default();
        let name = parse(&passwd).find(|user| user.uid == uid).map_or_else(|| uid.to_string(), |user| user.name);
        User { name, uid, gid }
    }

    /// Whether this is root.
    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// The user of this name.
    pub(crate) fn named(name: &str) -> Result<User, Error> {
        let passwd = read_passwd()?;
        parse(&passwd).find(|user| user.name == name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no user `{name}` on this host"))
                .hint("Install the server's package, which makes it, or set server_user in [mariadb] or [mysql].")
        })
    }
}

fn read_passwd() -> Result<String, Error> {
    let path = std::path::Path::new("/etc/passwd");
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|err| io_error("unable to read", path, err))
}

fn parse(passwd: &str) -> impl Iterator<Item = User> + '_ {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(User { name, uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_users_are_passed_over() {
        let users: Vec<User> =
            parse("root:x:0:0:root:/root:/bin/bash\n+nis\n\nmysql:x:101:102::/:/bin/false\n").collect();
        assert_eq!(
            users.iter().map(|user| (user.name.as_str(), user.uid, user.gid)).collect::<Vec<_>>(),
            [("root", 0, 0), ("mysql", 101, 102)]
        );
    }

    #[test]
    fn an_unknown_user_is_told_with_the_remedy() {
        let err = User::named("no-such-user").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
        assert!(err.to_string().contains("server_user"), "{err}");
    }
}
