// Package client says who a client is and how much of the gateway it may take: the address that a
// proxy in front reports (PROXY protocol, Forwarded, X-Forwarded-For), sets of address ranges, and
// limits for each address.
//
// Everything here is pure: bytes and addresses in, values out. Who is trusted, and what a limit
// means for a connection, is package gateway's to decide.
package client
