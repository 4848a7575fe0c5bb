package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
)

func caRevoke() *cobra.Command {
	var folder string
	var serials []string
	c := &cobra.Command{
		Use: "revoke [ROLE/NAME]...", Short: "Put identities or single certificates on the authority's deny list",
		Long: `Put identities or single certificates on the authority's deny list.

A name is denied whatever its certificate, for good: the authority issues no
further one for it. With --serial one certificate is denied and its name stays;
"cryptflow ca show" prints serial numbers. The list is signed with the
authority's key and has the next number. Copy it to the deny_list of both
services: they take it up within seconds, without a restart, end the denied
connections, and refuse a list that is older than the one they have.`,
		Example: "  cryptflow ca revoke --dir ca client/ward-7\n  cryptflow ca revoke --dir ca --serial 5f3a…",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args)+len(serials) == 0 {
				return fmt.Errorf("name what to revoke: ROLE/NAME, as in client/ward-7, or --serial: %w", errs.ErrArgument)
			}
			a, err := identity.OpenAuthority(folder)
			if err != nil {
				return err
			}
			var names []identity.Identity
			for _, arg := range args {
				id, err := identityOf(a.Domain, arg)
				if err != nil {
					return err
				}
				names = append(names, id)
			}
			for i := range serials {
				if serials[i], err = identity.ParseSerial(serials[i]); err != nil {
					return err
				}
			}
			list, path, err := a.Revoke(names, serials, time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(),
				"deny list %d in %s: %d names, %d serial numbers; copy it to the deny_list of both services\n",
				list.Number, path, len(list.Names), len(list.Serials))
			return nil
		},
	}
	c.Flags().StringVar(&folder, "dir", "ca", "folder of the authority")
	c.Flags().StringSliceVar(&serials, "serial", nil, "serial number of a certificate, in hexadecimal")
	return c
}

// identityOf reads ROLE/NAME, or a whole SPIFFE id.
func identityOf(domain, s string) (identity.Identity, error) {
	if strings.HasPrefix(s, "spiffe://") {
		return identity.Parse(s)
	}
	role, name, _ := strings.Cut(s, "/")
	id := identity.Identity{Domain: domain, Role: identity.Role(role), Name: name}
	return id, id.Check()
}
