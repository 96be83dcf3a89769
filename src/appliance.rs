//! The composition root: puts the parts together, starts the threads, and ends them in order.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use uuid::Uuid;

use crate::agent::crew::Crew;
use crate::agent::planning::AgentPlanning;
use crate::agent::verify::schedule::Schedule;
use crate::agent::{Context, Settings, rebuild};
use crate::api::{Api, HttpSettings, Limits, TlsFiles};
use crate::config::{self, Config};
use crate::datastore::version::version_of;
use crate::datastore::{Toolbox, Tools};
use crate::domain::datastore::Datastore;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::lock::StateLock;
use crate::logging;
use crate::process::Cmd;
use crate::queue::{Bell, Run, Workers};
use crate::repository::codec::IdentitySource;
use crate::repository::{self, Repository, Transfers, hex};
use crate::service::{Installed, Service, ServiceSettings, hex_of};
use crate::storage::Access;
use crate::store::Store;

/// How long the workers may take to give their tasks back when the appliance stops.
const WORKERS_STOP: Duration = Duration::from_millis(1500);
/// How long the command that prints identities may take: it may ask somebody.
const IDENTITY_COMMAND: Duration = Duration::from_secs(60);
/// The token's name in the state, and the file in which the command line finds it.
const TOKEN_NAME: &str = "command line";
const TOKEN_FILE: &str = "token";
/// The file in which the command line finds where the appliance listens.
const URL_FILE: &str = "url";

/// Runs the appliance until SIGTERM or SIGINT.
pub(crate) fn run(config_file: Option<PathBuf>) -> Result<(), Error> {
    let config = Config::load(config_file.as_deref())?;
    // Before anything else, so that a signal during the start is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|err| Error::new(ErrorKind::Internal, "unable to listen for signals").with_source(err))?;
    let appliance = Appliance::start(&config)?;
    if let Some(signal) = signals.forever().next() {
        logging::info("appliance", format!("stopping on signal {signal}; the database servers go on"));
    }
    appliance.stop();
    Ok(())
}

struct Appliance {
    api: Api,
    workers: Workers,
    crew: Arc<Crew>,
    stopping: Arc<AtomicBool>,
    /// Released last: nobody else may use the state before everything here has ended.
    _lock: StateLock,
}

impl Appliance {
    fn start(config: &Config) -> Result<Appliance, Error> {
        let lock = StateLock::acquire(&config.state_dir)?;
        let store = Store::open(&config.state_dir)?;
        if store.read(|db| db.is_half_rebuilt())? {
            let message = format!("the catalog in `{}` is rebuilt by half only", config.state_dir.display());
            return Err(Error::new(ErrorKind::Refused, message)
                .hint("Run `coffer rebuild` with the repository's address again; it goes on where it was."));
        }
        let repository = Arc::new(open_repository(config, &store)?);
        let notice = notice_of_forgotten(&store, &repository, &config.repository_url);
        repository.make_ready();
        ensure_token(&store, &config.state_dir)?;
        let (bell, stopping) = (Bell::new(), Arc::new(AtomicBool::new(false)));
        let tools = tools(config);
        let installed = installed(&tools);
        let context = Arc::new(Context {
            store: store.clone(),
            repository,
            tools,
            settings: Settings {
                state_dir: config.state_dir.clone(),
                poll: config.shipping.poll,
                chunk_bytes_max: config.shipping.chunk_bytes_max,
                undo_window: config.recovery.undo_window,
                verification: config
                    .repository
                    .verification
                    .map(|verification| Schedule { every: verification.every, slices: verification.slices }),
            },
            bell: bell.clone(),
            stopping: Arc::clone(&stopping),
        });
        let crew = Arc::new(Crew::new(Arc::clone(&context)));
        let planning = Arc::new(AgentPlanning::new(context, Arc::clone(&crew)));
        let unfinished = store.write(|tx| tx.settle_tasks())?;
        if unfinished > 0 {
            logging::info("appliance", format!("{unfinished} unfinished tasks go on"));
        }
        crew.start()?;
        let run: Run = {
            let crew = Arc::clone(&crew);
            Arc::new(move |task| crew.carry_out(task))
        };
        let workers = Workers::start(&store, &bell, config.workers, run)?;
        let settings = ServiceSettings { state_dir: config.state_dir.clone(), installed, notice };
        let service = Arc::new(Service::new(store, bell, planning, settings));
        let api = Api::start(service, http_settings(config))?;
        let url = api.url();
        durable::write(&config.state_dir.join(URL_FILE), format!("{url}\n").as_bytes(), 0o600)?;
        let token = config.state_dir.join(TOKEN_FILE);
        logging::info("appliance", format!("serving on {url}; the token is in `{}`", token.display()));
        Ok(Appliance { api, workers, crew, stopping, _lock: lock })
    }

    /// No new requests, then no new tasks, then the agents; running tasks go on at the next start.
    fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.api.stop();
        if !self.workers.stop(WORKERS_STOP) {
            logging::warn("appliance", "a task did not end in time; it goes on at the next start");
            return;
        }
        self.crew.stop();
    }
}

/// The programs that the configuration names.
pub(crate) fn tools(config: &Config) -> Toolbox {
    let of = |datastore, from: &config::Installation| Tools {
        datastore,
        strategy: from.strategy,
        other_engines: from.other_engines,
        dump_locks_tables: from.dump_locks_tables,
        server: from.server.clone(),
        install_db: from.install_db.clone(),
        backup: from.backup.clone(),
        client: from.client.clone(),
        dump: from.dump.clone(),
        server_user: from.server_user.clone(),
        buffer_pool_bytes: from.buffer_pool_bytes,
        replay_buffer_pool_bytes: config.recovery.replay_buffer_pool_bytes,
    };
    Toolbox { mariadb: of(Datastore::Mariadb, &config.mariadb), mysql: of(Datastore::Mysql, &config.mysql) }
}

/// The servers that can be created here, MariaDB first. One whose program does not say its version can't be started.
fn installed(tools: &Toolbox) -> Vec<Installed> {
    let found = Datastore::ALL.into_iter().filter_map(|datastore| {
        let version = version_of(datastore, &tools.of(datastore).server).ok()?;
        Some(Installed { datastore, version })
    });
    found.collect()
}

/// How the configuration wants the repository to be reached and written.
pub(crate) fn repository_settings(config: &Config) -> repository::Settings {
    let from = &config.repository;
    repository::Settings {
        access: Access {
            credentials_file: from.credentials_file.clone(),
            ca_file: from.ca_file.clone(),
            bandwidth: from.bandwidth,
        },
        compression: from.compression,
        encrypt_to: from.encrypt_to.clone(),
        identity: match &from.identity {
            config::Identity::Nowhere => IdentitySource::Nowhere,
            config::Identity::File(path) => IdentitySource::File(path.clone()),
            config::Identity::Command(argv) => {
                let argv = argv.clone();
                IdentitySource::Asked(Arc::new(move || ask(&argv)))
            }
        },
        transfers: Transfers::new(from.transfers),
    }
}

/// Runs the command that prints identities. They stand in no error: that shows the command and its stderr only.
fn ask(argv: &[String]) -> Result<Vec<u8>, Error> {
    let Some((program, args)) = argv.split_first() else { return Ok(Vec::new()) };
    let command = args.iter().fold(Cmd::new(program), Cmd::arg);
    let asked = command.deadline(IDENTITY_COMMAND).run();
    asked.map(|output| output.stdout).map_err(|err| err.context("repository.identity_command failed"))
}

fn http_settings(config: &Config) -> HttpSettings {
    HttpSettings {
        listen: config.http.listen,
        tenant: config.http.tenant.clone(),
        hosts: config.http.hosts.clone(),
        tls: config
            .http
            .tls
            .as_ref()
            .map(|tls| TlsFiles { certificate: tls.certificate.clone(), key: tls.key.clone() }),
        socket_dir: config.state_dir.clone(),
        workers: crate::api::WORKERS,
        limits: Limits::default(),
    }
}

/// Opens the repository that this state belongs to. One that was used before must have the same id, and may be away for
/// a while: an unmounted disk or another folder is never begun anew in its place.
fn open_repository(config: &Config, store: &Store) -> Result<Repository, Error> {
    let settings = repository_settings(config);
    let repository = match store.read(|db| db.repository_id())? {
        None => Repository::open(&config.repository_url, &settings)?,
        Some(id) => Repository::open_known(&config.repository_url, &settings, parse_id(&id)?)?,
    };
    store.write(|tx| tx.set_repository_id(&repository.id().to_string()))?;
    Ok(repository.with_scratch_dir(&config.state_dir))
}

/// What an operator must know before beginning anew beside instances that can be brought back.
fn notice_of_forgotten(store: &Store, repository: &Repository, url: &str) -> Option<String> {
    let forgotten = match rebuild::forgotten(store, repository) {
        Ok(0) => return None,
        Ok(forgotten) => forgotten,
        Err(err) => {
            logging::warn("appliance", format!("unable to see which instances the repository holds: {err}"));
            return None;
        }
    };
    let noun = if forgotten == 1 { "instance" } else { "instances" };
    let notice = format!(
        "This repository holds {forgotten} {noun} that this state knows nothing of. To bring them back, stop the appliance and \
         run `coffer rebuild '{url}'`."
    );
    logging::warn("appliance", &notice);
    Some(notice)
}

fn parse_id(text: &str) -> Result<Uuid, Error> {
    text.parse()
        .map_err(|_| Error::new(ErrorKind::Corrupt, format!("the state says `{text}` where a repository's id is")))
}

/// Makes the first token. It is kept as a digest; itself it lies in a file that only this user reads, and is shown once
/// on a terminal, never in a log.
fn ensure_token(store: &Store, state_dir: &Path) -> Result<(), Error> {
    let file = state_dir.join(TOKEN_FILE);
    if file.exists() && !store.read(|db| db.tokens())?.is_empty() {
        return Ok(());
    }
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|err| Error::new(ErrorKind::Internal, format!("the system gives no random bytes: {err}")))?;
    let token = hex(&bytes);
    durable::write(&file, format!("{token}\n").as_bytes(), 0o600)?;
    store.write(|tx| tx.insert_token(&hex_of(&token), TOKEN_NAME))?;
    let mut out = std::io::stdout();
    if out.is_terminal() {
        writeln!(out, "The API token, shown this once (the command line finds it in {}):\n{token}", file.display())
            .map_err(|err| io_error("unable to write to", Path::new("standard output"), err))?;
    }
    Ok(())
}
