package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/cryptflow/cryptflow/go/identity"
)

const day = 24 * time.Hour

// caCommand issues certificates from a folder.
func caCommand() *cobra.Command {
	ca := &cobra.Command{Use: "ca", Short: "Issue the certificates by which services and clients know each other"}
	ca.AddCommand(caInit(), caIssue(), caRevoke(), caSigningKey(), caShow())
	return ca
}

func caInit() *cobra.Command {
	var folder, domain string
	var days int
	c := &cobra.Command{
		Use: "init", Short: "Make a certificate authority in a folder", Args: cobra.NoArgs,
		Example: "  cryptflow ca init --dir ca --domain hospitals.example",
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := identity.NewAuthority(folder, domain, time.Duration(days)*day, time.Now()); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "authority of %s in %s; give %s to every party and keep ca.key to yourself\n", domain, folder, filepath.Join(folder, identity.CACertificate))
			return nil
		},
	}
	c.Flags().StringVar(&folder, "dir", "ca", "folder of the authority")
	c.Flags().StringVar(&domain, "domain", "cryptflow.local", "trust domain of every identity")
	c.Flags().IntVar(&days, "days", 3650, "days until the authority expires")
	return c
}

func caIssue() *cobra.Command {
	var folder, out, role, name string
	var hosts []string
	var days int
	c := &cobra.Command{
		Use: "issue", Short: "Issue a certificate for one identity", Args: cobra.NoArgs,
		Example: "  cryptflow ca issue --dir ca --role client --name ward-7\n  cryptflow ca issue --dir ca --role kms --name kms --host kms.hospitals.example",
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := identity.ParseRole(role)
			if err != nil {
				return err
			}
			a, err := identity.OpenAuthority(folder)
			if err != nil {
				return err
			}
			if out == "" {
				out = folder
			}
			id := identity.Identity{Domain: a.Domain, Role: r, Name: name}
			crt, key, err := a.Issue(out, id, hosts, time.Duration(days)*day, time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s\n  certificate %s\n  key         %s\n", id, crt, key)
			return nil
		},
	}
	c.Flags().StringVar(&folder, "dir", "ca", "folder of the authority")
	c.Flags().StringVar(&out, "out", "", "folder for the new files (default: the authority's)")
	c.Flags().StringVar(&role, "role", "", "client, aggregator, kms or admin")
	c.Flags().StringVar(&name, "name", "", "name within the role")
	c.Flags().StringSliceVar(&hosts, "host", []string{"localhost", "127.0.0.1"}, "DNS names and addresses of a service")
	c.Flags().IntVar(&days, "days", 30, "days until the certificate expires")
	for _, f := range []string{"role", "name"} {
		if err := c.MarkFlagRequired(f); err != nil {
			panic(err)
		}
	}
	return c
}

func caSigningKey() *cobra.Command {
	return &cobra.Command{
		Use: "signing-key FILE", Short: "Draw an admin's signing key into a new file and print its public half", Args: cobra.ExactArgs(1),
		Long: `Draw an admin's signing key into a new file and print its public half.

The key (Ed25519, PKCS #8 in PEM, readable by its owner only) signs tasks; a
profile names its file as signing_key. What is printed, 64 hexadecimal digits,
goes into admin_keys of both services and admin_key of every profile. A file
that exists is never replaced; "cryptflow ca show FILE" prints its public half.`,
		Example: "  cryptflow ca signing-key alice/signing.pem > admin_key",
		RunE: func(c *cobra.Command, args []string) error {
			key, err := identity.NewSigning(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), identity.SigningName(key))
			return nil
		},
	}
}

func caShow() *cobra.Command {
	return &cobra.Command{
		Use: "show FILE", Short: "Say whose a certificate is and when it ends, or what a signing key's public half is", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if key, err := identity.OpenSigning(args[0], false); err == nil {
				fmt.Fprintln(c.OutOrStdout(), identity.SigningName(key))
				return nil
			}
			crt, err := identity.ReadCertificate(args[0])
			if err != nil {
				return err
			}
			id, err := identity.Of(crt)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s\n  issued by   %s\n  serial      %s\n  valid until %s\n", id,
				crt.Issuer.CommonName, identity.Serial(crt), crt.NotAfter.UTC().Format(time.RFC3339))
			return nil
		},
	}
}
