//! `sticky attach`: steer a pool that already runs, and follow it.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::Result;
use sticky_ebpf::abi::MAX_SLOTS;

use crate::detach;
use crate::events::{self, Ledger};
use crate::group::{self, Group, Member, Target};
use crate::kernel::{self, Need};
use crate::listeners::{self, LastLook};
use crate::pool::id::PoolId;
use crate::pool::slots::{Change, Slots, Wish};
use crate::pool::{Pool, Steering};
use crate::redirect;
use crate::refusal::Refusal;
use crate::say::{Trouble, ready, say};
use crate::stop::Stop;
use crate::watch::Watch;

/// What `sticky attach` is to do.
pub struct Plan {
    /// Which pools to steer.
    pub target: Target,
    /// How to steer them.
    pub steering: Steering,
    /// Whether sockets of different programs or users may be in one pool.
    pub mixed: bool,
    /// Whether to end once the pools are steered.
    pub once: bool,
}

/// Steers what `plan` names, and returns when told to stop, with the steering left on.
pub fn attach(plan: &Plan) -> Result<()> {
    kernel::require(&[Need::Steer])?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let stop = Stop::new(true)?;
        let groups = find(plan)?;
        // From the beginning, so that nobody meddles unseen.
        let watch = (!plan.once).then(Watch::start);
        let followed = groups.iter().map(|group| Followed::start(group, plan)).collect::<Result<_>>()?;
        let Some(watch) = watch else {
            let target = plan.target;
            say(format_args!("steering goes on by itself; `sticky attach {target}` follows new workers, `sticky detach {target}` ends it"));
            return Ok(());
        };
        follow(followed, watch, stop, plan).await
    })
}

/// The groups that `plan` names, all of which can be steered.
fn find(plan: &Plan) -> Result<Vec<Group>> {
    let groups = group::named(&plan.target)?;
    for group in &groups {
        group.check(plan.mixed)?;
        if group.members.len() > MAX_SLOTS {
            let what = format!(
                "{} has {} sockets; a pool has at most {MAX_SLOTS} slots",
                group.id,
                group.members.len()
            );
            return Err(Refusal::new(what, "run fewer workers").into());
        }
    }
    Ok(groups)
}

struct Followed {
    pool: Pool,
    slots: Slots,
    /// The programs, with their users, that had slots so far: theirs come again, whoever was there meanwhile.
    programs: HashSet<(PathBuf, u32)>,
    /// The processes there were at the last look.
    seen: HashSet<u32>,
    /// Those of them that hold sockets of the pool.
    holders: HashSet<u32>,
    last: LastLook,
    ledger: Ledger,
    trouble: Trouble,
}

impl Followed {
    fn start(group: &Group, plan: &Plan) -> Result<Self> {
        let mut followed = Self {
            pool: Pool::open(group.id, &plan.steering)?,
            slots: Slots::default(),
            programs: HashSet::new(),
            seen: HashSet::new(),
            holders: HashSet::new(),
            last: LastLook::default(),
            ledger: Ledger::default(),
            trouble: Trouble::default(),
        };
        let adopted = followed.pool.adopted;
        if let Err(error) = followed.fill(group, plan) {
            if !adopted {
                detach::release(group)?;
                followed.pool.remove()?;
            }
            return Err(error);
        }
        let how = if adopted { "adopted" } else { "steered" };
        say(format_args!("{} is {how}: {} workers", group.id, followed.slots.live()));
        Ok(followed)
    }

    /// Puts all of the group's sockets into slots, or fails.
    fn fill(&mut self, group: &Group, plan: &Plan) -> Result<()> {
        self.pool.grow(group.members.len())?;
        for change in self.sync(group, plan.mixed)? {
            if let Change::Outside(member, why) = change {
                anyhow::bail!("{} of {} cannot be steered: {why}", member.programs(), group.id);
            }
        }
        if plan.once { Ok(()) } else { self.pool.serve_proxies(&group.members) }
    }

    fn sync(&mut self, group: &Group, mixed: bool) -> Result<Vec<Change>> {
        let cookies = self.pool.pins.cookies()?;
        let (mut free, programs) = (true, &mut self.programs);
        for member in group.members.iter().filter(|member| cookies.contains(&Some(member.listener.cookie))) {
            free = false;
            programs.extend(member.identities());
        }
        self.slots.sync(&mut self.pool, &group.members, |member| {
            if mixed || free || !programs.is_disjoint(&member.identities()) {
                Wish::EmptyFrom(0)
            } else {
                Wish::None("it is another program, or another user's, than the pool's workers (`--mixed` takes it in)".into())
            }
        })
    }

    /// The group as it is now.
    ///
    /// To look through all processes' descriptors takes milliseconds on a busy machine, so those that are new since the
    /// last look come first, with the known holders: a new worker mostly is a new process.
    fn find(&mut self) -> Result<Group> {
        let id = self.pool.id;
        let this = |found: &PoolId| *found == id;
        let likely = || {
            let now: HashSet<u32> = listeners::processes().collect();
            let before = std::mem::replace(&mut self.seen, now);
            let likely = |pid: &u32| !before.contains(pid) || self.holders.contains(pid);
            self.seen.iter().copied().filter(likely).collect::<Vec<_>>()
        };
        let mut groups = group::find(id.protocol, this, likely)?;
        let unknown =
            |member: &Member| member.holders.is_empty() && !self.pool.is_own(member.listener.cookie);
        if groups.iter().flat_map(|group| &group.members).any(unknown) {
            groups = group::find(id.protocol, this, listeners::processes)?;
        }
        let group = groups.into_iter().next().unwrap_or(Group { id, members: Vec::new() });
        self.holders =
            group.members.iter().flat_map(|member| &member.holders).map(|holder| holder.pid).collect();
        Ok(group)
    }

    /// Looks at the group once more and tells what changed.
    fn look(&mut self, mixed: bool) -> Result<()> {
        let id = self.pool.id;
        self.pool.see_present()?;
        events::log(&id, &self.pool.pins, &mut self.ledger)?;
        let listening = listeners::cookies(id.protocol, id.namespace, |found| *found == id)?;
        if self.last.suffices(&listening) && !self.pool.lacks_redirect() {
            return Ok(());
        }
        let group = self.find()?;
        let changes = self.sync(&group, mixed)?;
        self.pool.serve_proxies(&group.members)?;
        for change in changes {
            match change {
                Change::Joined(slot, member) => {
                    say(format_args!("{id}: slot {slot} has {}", member.programs()))
                }
                Change::Left(slot, who) => {
                    say(format_args!(
                        "{id}: slot {slot} is empty, {who} is gone; {} workers left",
                        self.slots.live()
                    ));
                }
                Change::Outside(member, why) => {
                    say(format_args!("{id}: {} gets no connections: {why}", member.programs()));
                }
            }
        }
        self.last.done(listening);
        Ok(())
    }
}

async fn follow(mut followed: Vec<Followed>, mut watch: Watch, mut stop: Stop, plan: &Plan) -> Result<()> {
    ready();
    loop {
        tokio::select! {
            () = watch.changed() => {
                let told = watch.told();
                for one in &mut followed {
                    let id = one.pool.id;
                    one.pool.guard(&told);
                    let failed = one.look(plan.mixed).err();
                    one.trouble.is(failed.map(|error| format!("{id}: {error:#}")));
                }
            }
            () = stop.told() => break,
        }
    }
    let redirects = followed.iter_mut().filter_map(|one| one.pool.take_redirect()).collect();
    tokio::select! {
        () = redirect::close(redirects) => {}
        // Told twice: at once.
        () = stop.told() => {}
    }
    say(format_args!("steering goes on without this process; `sticky detach {}` ends it", plan.target));
    Ok(())
}
