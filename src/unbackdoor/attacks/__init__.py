"""What has to be cured is made here: patches are crafted, labels and pairs poisoned, backdoors planted."""
