"""The main job on one machine, as a newcomer sees it: `payout-gateway demo`."""
