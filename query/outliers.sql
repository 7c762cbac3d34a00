-- Rows whose norm is furthest above the median of their layer, pooling and region.
-- param k int = 20: how many rows
-- param layer int optional: only this layer
WITH measured AS (
    SELECT *,
           norm / median(norm) FILTER (isfinite(norm))
               OVER (PARTITION BY model, site, layer, pooling, region) AS ratio
    FROM activations
    WHERE $layer::INTEGER IS NULL OR layer = $layer::INTEGER
)
SELECT row_id, model, site, layer, pooling, region, example_id, mode, variant, label, norm,
       round(ratio, 3) AS times_median
FROM measured
ORDER BY isnan(ratio), ratio DESC, row_id
LIMIT $k::INTEGER
