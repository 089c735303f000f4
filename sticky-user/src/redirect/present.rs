//! The clients whose requests are under way, or whose tunnels are open.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use sticky_ebpf::client::Client;

/// Those of a thread.
#[derive(Default)]
pub struct Present(RefCell<HashMap<Client, usize>>);

impl Present {
    /// A client is here, until what is returned is dropped.
    pub fn enter(self: &Rc<Self>, client: Client) -> Here {
        *self.0.borrow_mut().entry(client).or_default() += 1;
        Here { present: Rc::clone(self), client }
    }

    /// Who is here.
    pub fn clients(&self) -> Vec<Client> {
        self.0.borrow().keys().copied().collect()
    }
}

/// A client that is here.
pub struct Here {
    present: Rc<Present>,
    client: Client,
}

impl Drop for Here {
    fn drop(&mut self) {
        let mut clients = self.present.0.borrow_mut();
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}
