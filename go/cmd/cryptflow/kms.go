package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/service"
)

func rotateCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "rotate-kek", Short: "Change the key-encryption key of a stopped key service", Args: cobra.NoArgs,
		Long: `Change the key-encryption key of a stopped key service. Every round's key is
wrapped under the new one, and the old one is overwritten. Interrupted, the
command goes on when it is called again; the service does not start in between.`,
		Example: "  cryptflow kms rotate-kek --config kms.toml",
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := config.LoadKMS(*file)
			if err != nil {
				return err
			}
			n, err := service.RotateKEK(conf)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "the key-encryption key is new; keys of open rounds wrapped anew: %d\n", n)
			return nil
		},
	}
}

func recoverCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "recover", Short: "Give up what a restored key service may have forgotten, so that it serves again", Args: cobra.NoArgs,
		Long: `Make a key service serve again whose ledger was restored from a backup.

A restored ledger has forgotten decisions that the service signed, and could
contradict them. All its tasks are given up: their open rounds are lost, no
further round opens, and their admins create new tasks. Models are not lost:
clients hold them. The command refuses a ledger that is not older than its epoch.`,
		Example: "  cryptflow kms recover --config kms.toml",
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := config.LoadKMS(*file)
			if err != nil {
				return err
			}
			log, err := service.NewLogger(conf.Log, "kms")
			if err != nil {
				return err
			}
			n, err := service.RecoverKMS(c.Context(), conf, log)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "recovered; tasks given up: %d. Their admins create new ones.\n", n)
			return nil
		},
	}
}
