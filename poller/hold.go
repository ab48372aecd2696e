package poller

// Hold stops accepting for a while: clients wait in the kernel's queue. Loop only.
func (a *Acceptor) Hold() {
	a.held = true
	a.SetInterest(false, false)
}

// Unhold undoes Hold. Loop only.
func (a *Acceptor) Unhold() {
	a.held = false
	a.SetInterest(!a.rest.Armed(), false)
}
